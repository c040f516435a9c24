"""Finds the splits and the two classes of a data set by the names of its folders. It does not import torch.

The layout is {train,val,test}/CLASS/**, in any case, or CLASS/** without a split. A folder around it is ignored.
"""

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterable

from trainables.config import IMAGE_SIZE
from trainables.errors import InputError
from trainables.source import LAYOUT, Source

SPLITS = ("train", "val", "test")
ALIASES = {"valid": "val", "validation": "val"}
"""Other name of a split -> the split."""
WHOLE = "all"
"""Split of all images of a data set without splits."""
SOURCE = "source"
"""Split of images of another source, on which no model trains."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
LONGEST = 100
"""Characters of a class's name, at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which files of a source belong to which split and class."""

    classes: tuple[str, str]
    """Names in the order of their labels, 0 and 1."""
    splits: tuple[str, ...]
    """The existing ones of SPLITS, or WHOLE, each with images of both classes; or SOURCE."""
    files: dict[str, str]
    """Path inside the source -> SPLIT/CLASS/FILE."""

    def list_parts(self) -> list[str]:
        """Return SPLIT/CLASS for all splits and classes."""
        return ["/".join(part) for part in itertools.product(self.splits, self.classes)]


def read_layout(source: Source, positive: str | None = None) -> Layout:
    """Find splits and classes.

    Args:
        source: Folder or zip.
        positive: Class with label 1; None takes the second class in the order of names.

    Raises:
        InputError: If there are not two classes, `positive` is neither of them, or a class of a split has no files.
    """
    roots = _find_splits(source)
    found: dict[tuple[str, str], list[str]] = {}
    for split, root in roots.items():
        for name in source.list_folders(root):
            if files := source.list_files(f"{root}/{name}".lstrip("/")):
                found[split, name] = files
    classes = _choose_classes(source, found, positive)
    splits = (WHOLE,) if WHOLE in roots else tuple(name for name in SPLITS if name != "val" or name in roots)
    layout = Layout(
        classes=classes,
        splits=splits,
        files={
            path: f"{split}/{label}{path[len(f'{roots[split]}/{label}'.lstrip('/')) :]}"
            for (split, label), paths in found.items()
            if label in classes
            for path in paths
        },
    )
    require_classes(source, layout.list_parts(), {f"{split}/{label}" for split, label in found}, "has no images in")
    return layout


def read_source(source: Source, classes: tuple[str, str]) -> Layout:
    """Find the images of a source that is only for tests: those of its test folder if it has splits, else all.

    Args:
        source: Folder or zip.
        classes: The two classes in the order of their labels; the source may have only one of them.

    Raises:
        InputError: If it has images of another class, or none, or a folder of a class is empty.
    """
    roots = _find_splits(source, classes)
    root = roots.get(WHOLE, roots.get("test"))
    if root is None:
        raise InputError(f"{source.path} has a train folder and no test folder: give CLASS/** or test/CLASS/**")
    start = f"{root}/".lstrip("/")
    found = {name: source.list_files(f"{start}{name}") for name in sorted(source.list_folders(root))}
    expected = f"expected {' and '.join(classes)}, or one of them, in CLASS/** or test/CLASS/**"
    if unknown := [name for name, files in found.items() if name not in classes and _has_images(files)]:
        raise InputError(f"{source.path} has images of {', '.join(map(ascii, unknown[:20]))}: {expected}")
    own = [name for name in classes if name in found]
    if empty := [name for name in own or classes if not found.get(name)]:
        raise InputError(f"{source.path} has no images of {' and '.join(empty)}: {expected}")
    files = {path: f"{SOURCE}/{path.removeprefix(start)}" for name in own for path in found[name]}
    return Layout(classes=classes, splits=(SOURCE,), files=files)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a pack depends on besides its source."""

    size: int = IMAGE_SIZE
    """Height and width to which images are resized, in pixels."""
    positive: str = "REAL"
    """Class with label 1."""
    test_fraction: float | None = None
    """Fraction of the images that becomes the test split, for a source without splits; None for any other."""
    classes: tuple[str, str] | None = None
    """Classes in the order of their labels, for images that models are only tested on; None for a data set."""

    def describe(self) -> str:
        """Return the settings as text; those of CIFAKE are the empty one."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name != "classes" or value}
        return "" if self == Settings() else json.dumps(plain)

    def read_layout(self, source: Source) -> Layout:
        """Return which files of a source belong to which split and class."""
        return read_layout(source, self.positive) if self.classes is None else read_source(source, self.classes)


def require_classes(
    source: Source, parts: Iterable[str], present: set[str], complaint: str = "has only files that are not images in"
) -> None:
    """Raise InputError with the complaint unless all parts, SPLIT/CLASS, are present."""
    if missing := [part for part in parts if part not in present]:
        raise InputError(f"{source.path} {complaint} {', '.join(missing)}: expected images in {LAYOUT}")


def _find_splits(source: Source, classes: Collection[str] = ()) -> dict[str, str]:
    """Return the folder of each split, or of WHOLE; a folder around the layout does not have the name of a class."""
    top = ""
    names = source.list_folders(top)
    around = [name for name in names if name.lower() not in SPLITS and name not in classes]
    if len(names) == len(around) == 1 and (below := source.list_folders(names[0])):
        top, names = f"{names[0]}/", below
    meant = {name: ALIASES.get(name.lower(), name.lower()) for name in names}
    roots = {split: f"{top}{name}" for split in SPLITS for name in names if meant[name] == split}
    if not {"train", "test"} & roots.keys():
        return {WHOLE: top.rstrip("/")}
    others = [name for name in names if meant[name] not in SPLITS]
    if len(roots) < len(names) - len(others):
        raise InputError(f"{source.path} has two folders of one split, such as train and Train: keep one")
    if unknown := [name for name in sorted(others) if _has_images(source.list_files(f"{top}{name}"))]:
        told = ", ".join(map(ascii, unknown[:20]))
        raise InputError(f"{source.path} has images in {told}: name it train, val or test, or move it elsewhere")
    return roots


def _has_images(files: Iterable[str]) -> bool:
    return any(path.lower().endswith(SUFFIXES) for path in files)


def _choose_classes(source: Source, found: dict[tuple[str, str], list[str]], positive: str | None) -> tuple[str, str]:
    """Return the two classes in the order of their labels; folders without images do not count if there are more."""
    names = sorted({label for _, label in found})
    if len(names) > 2:
        names = sorted({label for (_, label), files in found.items() if _has_images(files)})
    if len(names) != 2:
        told = f" ({', '.join(map(ascii, names[:20]))})" if names else ""
        raise InputError(
            f"{source.path} has {len(names)} classes{told}: a model tells exactly two apart; give two folders of images"
            f" in each split, {LAYOUT}"
        )
    if bad := [name for name in names if not name.isprintable() or len(name) > LONGEST]:
        raise InputError(
            f"{source.path}: the class {bad[0][:LONGEST]!a} needs a printable name of at most {LONGEST} characters"
        )
    first, second = names
    if positive is not None and positive not in names:
        raise InputError(
            f"data.positive = {positive!r}: {source.path} has the classes {first} and {second}: name one of them"
        )
    return (second, first) if positive == first else (first, second)

"""Packs a folder or a zip of images once per machine: all images decoded to one size, one file per split.

`trainables.layout` finds splits and classes, `trainables.source` reads the images, and `trainables.pack_info` describes
the files of a pack.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainables.config import IMAGE_SIZE
from trainables.durable import make_folder, sync, write_file
from trainables.errors import InputError
from trainables.files import hash_file
from trainables.layout import WHOLE, Layout, read_layout, require_classes
from trainables.pack_info import PACK_JSON, load_info
from trainables.source import Batch, Folder, Member, Source, cut, describe_bad, open_source, require_source, sign_source

FORMAT = 3
"""Version of the packed files; it is part of the names in the cache, so packs of other versions are not found."""
FILES = {"train": "train", "val": "train", "test": "test"}
"""Split of a data set -> files of the pack that hold it."""
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a pack depends on besides its source."""

    size: int = IMAGE_SIZE
    """Height and width to which images are resized, in pixels."""
    positive: str = "REAL"
    """Class with label 1."""
    test_fraction: float | None = None
    """Fraction of the images that becomes the test split, for a source without splits; None for any other."""

    def describe(self) -> str:
        """Return the settings as text; those of CIFAKE are the empty one."""
        return "" if self == Settings() else json.dumps(dataclasses.asdict(self))


def pack(
    source: Path,
    cache: Path,
    settings: Settings = Settings(),
    *,
    on_bad_image: Literal["stop", "skip"] = "stop",
    progress: Progress | None = None,
) -> Path:
    """Pack a data set, unless the cache has its pack already.

    Several processes may call this: one packs, the others wait. The next packing deletes leftovers of a killed one.

    Args:
        source: Folder or zip in a layout that `trainables.layout` knows.
        cache: Folder for all packs of this machine; created if missing.
        settings: What else the pack depends on.
        on_bad_image: Whether a file that is not an image stops the packing, or is skipped and listed.
        progress: Called with the number of files done and the number of all files.

    Returns:
        The pack's folder in `cache`, for `trainables.splits` to open.

    Raises:
        InputError: If the source, the cache or the pack in it cannot be used.
    """
    try:
        require_source(source)
        paths = read_layout(Folder(source), settings.positive).files if source.is_dir() else ("",)
        link = cache / f"source{FORMAT}-{sign_source(source, settings.describe(), paths)}"
        if not link.is_dir():
            make_folder(cache)
            with lock_cache(cache):
                if not link.is_dir():
                    with open_source(source) as opened:
                        folder = _write_pack(opened, cache, settings, on_bad_image, progress)
                    link.unlink(missing_ok=True)
                    link.symlink_to(folder.name)
        folder = cache / link.readlink()
    except OSError as error:
        raise InputError(f"cannot pack {source} into {cache}: {error}") from error
    info = load_info(folder)
    if info.skipped and on_bad_image == "stop":
        raise InputError(describe_bad(source, info.skipped[0], info.reasons[0]))
    return folder


@contextlib.contextmanager
def lock_cache(cache: Path) -> Iterator[None]:
    """Lock the cache; the kernel releases the lock when the process ends."""
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_pack(source: Source, cache: Path, settings: Settings, on_bad_image: str, progress: Progress | None) -> Path:
    """Write the pack, unless it exists; it gets its name when all of it is on the disk."""
    temporary = cache / "packing"
    shutil.rmtree(temporary, ignore_errors=True)
    layout = read_layout(source, settings.positive)
    members = _divide(source, layout, settings.test_fraction)
    lines = "".join(f"{member.name}\0{member.crc:08x}\0{member.size}\n" for member in members)
    known = (lines + settings.describe()).encode(errors="surrogateescape")
    fingerprint = hashlib.sha256(known).hexdigest()
    target = cache / f"pack{FORMAT}-{fingerprint[:32]}"
    if target.is_dir():
        return target
    from trainables.decode import decode_chunks  # imports Pillow, which finding a pack does not need

    temporary.mkdir()
    try:
        chunks = {split: cut([each for each in members if each.name.startswith(f"{split}/")]) for split in FILES}
        batches = decode_chunks(source, [*itertools.chain(*chunks.values())], on_bad_image, progress, settings.size)
        with contextlib.closing(batches):
            info = _write_splits(source, layout, temporary, batches, {name: len(own) for name, own in chunks.items()})
        info |= {"fingerprint": fingerprint, "source": str(source.path.resolve()), "size": settings.size}
        write_file(temporary / PACK_JSON, json.dumps(info).encode())
        temporary.rename(target)
        sync(cache)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = len(members) * (3 * settings.size**2 + 9) // 1_000_000 + 1
        raise InputError(f"no space left in {cache}: free {needed} MB there or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _divide(source: Source, layout: Layout, test_fraction: float | None) -> list[Member]:
    """Return the files of a source by name; a test split is taken from a source without splits.

    A hash of the file decides, so copies fall together, and an image stays in its split when others are added.
    """
    is_whole = layout.splits == (WHOLE,)
    if is_whole and test_fraction is None:
        raise InputError(f"{source.path} has no train and test folders: set data.test_fraction, such as 0.2")
    if test_fraction is not None and not is_whole:
        raise InputError(f"test_fraction = {test_fraction}: {source.path} has a test split of its own: leave it null")
    members = source.measure(layout.files)
    if test_fraction is not None:
        members = [_carve(member, test_fraction) for member in members]
        present = {"/".join(member.name.split("/")[:2]) for member in members}
        parts = [f"{split}/{label}" for split in ("train", "test") for label in layout.classes]
        require_classes(source, parts, present, f"with test_fraction = {test_fraction} has no images in")
    return sorted(members, key=lambda member: member.name)


def _carve(member: Member, test_fraction: float) -> Member:
    """Return a file of WHOLE as one of train or test."""
    digest = hashlib.blake2b(f"{member.crc} {member.size}".encode(), digest_size=8).digest()
    split = "test" if int.from_bytes(digest) < test_fraction * 2**64 else "train"
    return dataclasses.replace(member, name=member.name.replace(WHOLE, split, 1))


def _write_splits(
    source: Source, layout: Layout, folder: Path, batches: Iterator[Batch], lengths: Mapping[str, int]
) -> dict[str, Any]:
    """Write images, labels and hashes of the splits, and return their entries of pack.json.

    The batches follow each other split after split; `lengths` has their number in each.
    """
    hashes: dict[str, list[bytes]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    found: dict[str, list[str]] = {"skipped": [], "reasons": [], "resized": []}
    counts: dict[str, dict[str, int]] = {}
    for split, name in FILES.items():
        counts[split] = dict.fromkeys(layout.classes, 0)
        with (folder / f"{name}.images").open("ab") as file:
            for batch in itertools.islice(batches, lengths[split]):
                file.write(batch.images.data)
                hashes[name] += batch.hashes
                for member in batch.names:
                    label = member.split("/")[1]
                    counts[split][label] += 1
                    labels[name].append(layout.classes.index(label))
                found["skipped"] += batch.bad
                found["reasons"] += batch.bad.values()
                found["resized"] += batch.resized
    if "val" not in layout.splits:
        del counts["val"]
    present = {f"{split}/{label}" for split, own in counts.items() for label in own if own[label]}
    require_classes(source, [f"{split}/{label}" for split in counts for label in layout.classes], present)
    for name in labels:
        (folder / f"{name}.labels").write_bytes(bytes(labels[name]))
        (folder / f"{name}.hashes").write_bytes(b"".join(hashes[name]))
    own, others = (np.frombuffer(b"".join(each), dtype=np.uint64) for each in hashes.values())
    leaked, duplicates = _find_repeats(own, np.array(labels["train"], dtype=np.uint8), others)
    return found | {
        "classes": layout.classes,
        "counts": counts,
        "leaked": leaked,
        "duplicates": duplicates,
        "files": {path.name: _seal(path) for path in sorted(folder.iterdir())},
    }


def _find_repeats(
    hashes: NDArray[np.uint64], labels: NDArray[np.uint8], test_hashes: NDArray[np.uint64]
) -> tuple[list[int], list[int]]:
    """Find the training images to leave out.

    Returns:
        Indices of the images that are also in test, and indices of the other repeated images. Of those the first copy
        stays, unless the image is in both classes: its label is unknown, so every copy is left out.
    """
    leaked = np.isin(hashes, test_hashes)
    repeated = np.ones(len(hashes), dtype=bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    repeated |= np.isin(hashes, np.intersect1d(hashes[labels == 0], hashes[labels == 1]))
    return np.flatnonzero(leaked).tolist(), np.flatnonzero(repeated & ~leaked).tolist()


def _seal(path: Path) -> dict[str, int | str]:
    """Sync a file to the disk; return its size and checksum."""
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}

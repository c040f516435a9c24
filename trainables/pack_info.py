"""What is known of a pack, and which of its images train and which validate; without torch, at hand at once.

A pack is a folder with, per split, `SPLIT.images` (uint8, N x 32 x 32 x 3), `SPLIT.labels` (uint8, N) and
`SPLIT.hashes` (uint64, N; of the pixels), and `pack.json`. `trainables.pack` writes it, `trainables.splits` opens it.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.errors import InputError

CLASSES = ("FAKE", "REAL")
"""Names in the order of their labels, 0 and 1: torchvision's ImageFolder sorts them so."""
SPLITS = ("train", "test")
PACK_JSON = "pack.json"
"""What is known of a pack; written last."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackInfo:
    """What a pack holds."""

    fingerprint: str
    """SHA-256 of the files' names, sizes and CRCs, 64 digits; the same for a zip and for the folder it unpacks to."""
    source: str
    """Folder or zip that was packed."""
    counts: dict[str, dict[str, int]]
    """Packed images by split and class."""
    skipped: list[str]
    """Files that are not images."""
    reasons: list[str]
    """Why each of them is not."""
    leaked: int
    """Training images whose pixels are also in test; no split holds them but test."""
    duplicates: int
    """Further training images left out: second copies, and every copy of an image that is in both classes."""


def load_info(pack: Path) -> PackInfo:
    """Read what a pack holds.

    Raises:
        InputError: If the folder is not a complete pack.
    """
    record = read_pack_json(pack)
    values = {field.name: record[field.name] for field in dataclasses.fields(PackInfo)}
    return PackInfo(**values | {"leaked": len(record["leaked"]), "duplicates": len(record["duplicates"])})


def verify(pack: Path) -> None:
    """Read every file of a pack and compare it with its checksum.

    Raises:
        InputError: If a file is altered, truncated or missing.
    """
    for name, known in read_pack_json(pack)["files"].items():
        with check_size(pack, name, known["bytes"]).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                raise InputError(f"{pack / name} was altered after packing: delete the folder {pack} to pack it anew")


def split_train(
    pack: Path, *, val_fraction: float, seed: int, max_images: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Carve training and validation out of train, both with the classes in train's proportion.

    Leaked images and second copies are in neither. Only train's labels are read.

    Args:
        pack: What `trainables.pack.pack` returned.
        val_fraction: Share of the images that validates, in (0, 1).
        seed: Root of the draw, at least 0.
        max_images: Images in both splits together, at most; None is all.

    Returns:
        Indices of the images that train and of those that validate, each ascending.

    Raises:
        InputError: If the pack is broken, or a class would be without images in either split.
    """
    if not 0.0 < val_fraction < 1.0:
        raise InputError(f"val_fraction = {val_fraction!r}: expected a share between 0 and 1, both excluded")
    drawn = _draw_train(pack, seed=seed, max_images=max_images)
    cuts = [round(val_fraction * len(part)) for part in drawn]
    for name, part, cut in zip(CLASSES, drawn, cuts, strict=True):
        if not 0 < cut < len(part):
            raise InputError(
                f"val_fraction = {val_fraction!r} of {len(part)} {name} images leaves train or validation without any:"
                " use another fraction, or more images (max_images)"
            )
    train, validation = zip(*((part[cut:], part[:cut]) for part, cut in zip(drawn, cuts, strict=True)), strict=True)
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))


def draw_train(pack: Path, *, seed: int, max_images: int | None) -> NDArray[np.int64]:
    """Return the indices, ascending, of what `split_train` divides for the same arguments.

    Raises:
        InputError: If the pack is broken, or a class would be without images.
    """
    return np.sort(np.concatenate(_draw_train(pack, seed=seed, max_images=max_images)))


def _draw_train(pack: Path, *, seed: int, max_images: int | None) -> list[NDArray[np.int64]]:
    """Return per class the indices to use in random order.

    Each class has a generator of its own, and a smaller `max_images` gives a prefix of a larger one's draw.
    """
    record = read_pack_json(pack)
    _, labels_file = (
        check_size(pack, name, record["files"][name]["bytes"]) for name in ("train.images", "train.labels")
    )
    labels = np.fromfile(labels_file, dtype=np.uint8)
    usable = np.ones(len(labels), dtype=bool)
    usable[record["leaked"] + record["duplicates"]] = False
    members = [np.flatnonzero(usable & (labels == label)) for label in range(len(CLASSES))]
    available = sum(map(len, members))
    total = available if max_images is None else min(max_images, available)
    fakes = round(total * len(members[0]) / max(available, 1))
    takes = (fakes, total - fakes)
    for name, take, own in zip(CLASSES, takes, members, strict=True):
        if take < 1:
            raise InputError(
                f"max_images = {max_images} leaves train without {name}, of which {len(own)} of {available} images"
                " are usable: raise it, or use other data"
            )
    return [np.random.default_rng([seed, label]).permutation(own)[: takes[label]] for label, own in enumerate(members)]


def read_pack_json(pack: Path) -> dict[str, Any]:
    """Read the record of a pack, as it lies there.

    Raises:
        InputError: If the folder is not a complete pack.
    """
    try:
        record = json.loads((pack / PACK_JSON).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{pack} is not a complete pack ({error}): delete the folder to pack it anew") from error
    expected = {"files", *(field.name for field in dataclasses.fields(PackInfo))}
    if not isinstance(record, dict) or not record.keys() >= expected:
        raise InputError(f"{pack / PACK_JSON} is not a pack's record: delete the folder {pack} to pack it anew")
    return record


def check_size(pack: Path, name: str, size: int) -> Path:
    """Return the path of a pack's file, which must be there in full.

    Raises:
        InputError: If it is not.
    """
    path = pack / name
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        state = "is missing" if found is None else f"has {found} bytes instead of {size}"
        raise InputError(f"{path} {state}: delete the folder {pack} to pack it anew")
    return path

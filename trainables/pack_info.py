"""Reads and checks the description of a pack. It does not import torch.

A pack is a folder with `pack.json` and, for each split, `SPLIT.images` (uint8, N x size x size x 3),
`SPLIT.labels` (uint8, N) and `SPLIT.hashes` (uint64, N; of the pixels). Images of a validation split of the data set
follow those of train, in the same files. `trainables.pack` writes it, `trainables.splits` opens it.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.errors import InputError
from trainables.files import hash_file

FORMAT = 3
"""Version of the packed files; it is part of the names in the cache, so packs of other versions are not found."""
PACK_JSON = "pack.json"
"""File with the description of a pack; it is written last."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackInfo:
    """What a pack contains."""

    fingerprint: str
    """SHA-256 of the files' names, sizes and CRCs, and of the settings that are not the default; 64 digits. A zip and
    the folder of its files have the same one."""
    source: str
    """Folder or zip that was packed."""
    size: int
    """Height and width of the images in pixels."""
    classes: tuple[str, str]
    """Names in the order of their labels, 0 and 1."""
    counts: dict[str, dict[str, int]]
    """Split -> class -> number of images; `val` is there if the data set has a validation split."""
    resized: int
    """Number of images that had another size."""
    skipped: list[str]
    """Files that are not images."""
    reasons: list[str]
    """Reasons why they are not images, in the same order."""
    leaked: int
    """Number of training images that are also in test, by their pixels; they are left out of train and validation."""
    duplicates: int
    """Number of other training images left out: second copies, and all copies of an image that is in both classes."""


def load_info(pack: Path) -> PackInfo:
    """Read the description of a pack.

    Raises:
        InputError: If the folder is not a complete pack.
    """
    info = read_pack_json(pack)
    values = {field.name: info[field.name] for field in dataclasses.fields(PackInfo)}
    lengths = {name: len(info[name]) for name in ("resized", "leaked", "duplicates")}
    return PackInfo(**values | lengths | {"classes": tuple(info["classes"])})


def describe_images(data: Mapping[str, Any], test_fraction: float | None) -> list[str]:
    """Return sentences about what packing did to the images and splits of a data set.

    Args:
        data: Fields of PackInfo.
        test_fraction: Fraction of the images that became the test split; None if there was one.
    """
    notes = []
    if resized := data.get("resized"):
        total, size = sum(sum(own.values()) for own in data["counts"].values()), data["size"]
        notes.append(f"{resized:,} of {total:,} images had another size and were resized to {size}x{size} pixels.")
    if "val" in data.get("counts", ()):
        notes.append("The data set's own val split is used for validation; data.val_fraction has no effect.")
    if test_fraction is not None:
        notes.append(f"The test split is {test_fraction:g} of the images, chosen once by a hash of each file.")
    return notes


def verify(pack: Path) -> None:
    """Read every file of a pack and compare it with its checksum.

    Raises:
        InputError: If a file is altered, truncated or missing.
    """
    for name, known in read_pack_json(pack)["files"].items():
        if hash_file(check_size(pack, name, known["bytes"])) != known["sha256"]:
            raise InputError(f"{pack / name} was altered after packing: delete the folder {pack} to pack it again")


def read_pack_json(pack: Path) -> dict[str, Any]:
    """Read all of pack.json.

    Raises:
        InputError: If the folder is not a complete pack.
    """
    try:
        info = json.loads((pack / PACK_JSON).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{pack} is not a complete pack ({error}): delete the folder to pack it again") from error
    expected = {"files", *(field.name for field in dataclasses.fields(PackInfo))}
    if not isinstance(info, dict) or not info.keys() >= expected:
        raise InputError(f"{pack / PACK_JSON} does not describe a pack: delete the folder {pack} to pack it again")
    return info


def read_hashes(pack: Path, split: str) -> NDArray[np.uint64]:
    """Return the hashes (N,) of the pixels of all images of a split; no image is read.

    Raises:
        InputError: If the pack is damaged.
    """
    return np.fromfile(locate(pack, f"{split}.hashes", read_pack_json(pack)), dtype=np.uint64)


def locate(pack: Path, name: str, info: Mapping[str, Any]) -> Path:
    """Return the path of a pack's file after checking its size against pack.json.

    Raises:
        InputError: If there is no such file, or it has another size.
    """
    if name not in info["files"]:
        raise InputError(f"{pack} has no {name}: delete the folder {pack} to pack it again")
    return check_size(pack, name, info["files"][name]["bytes"])


def check_size(pack: Path, name: str, size: int) -> Path:
    """Return the path of a pack's file after checking its size.

    Raises:
        InputError: If it is missing or has another size.
    """
    path = pack / name
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        state = "is missing" if found is None else f"has {found} bytes instead of {size}"
        raise InputError(f"{path} {state}: delete the folder {pack} to pack it again")
    return path

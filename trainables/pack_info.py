"""Reads the description of a pack, and decides which images train and which validate. It does not import torch.

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


def split_train(
    pack: Path, *, val_fraction: float, seed: int, max_images: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split train into a training and a validation part, each with the classes in train's proportion.

    A validation split of the data set is the second part, whatever `val_fraction` says. Images that are also in test
    and second copies are in neither part. Only the labels of train are read.

    Args:
        pack: Folder that `trainables.pack.pack` returned.
        val_fraction: Fraction of the images that is used for validation, in (0, 1).
        seed: Root of the draw, at least 0.
        max_images: Images in both parts together, at most; None is all.

    Returns:
        Indices of the training images and of the validation images, each ascending.

    Raises:
        InputError: If the pack is damaged, or a class would have no images in a part.
    """
    if not 0.0 < val_fraction < 1.0:
        raise InputError(f"val_fraction = {val_fraction!r}: expected a number above 0 and below 1")
    info = load_info(pack)
    drawn = _draw_train(pack, seed=seed, max_images=max_images)
    if "val" in info.counts:
        start = sum(info.counts["train"].values())
        drawn = [part[np.argsort(part < start, kind="stable")] for part in drawn]
        cuts, what = [int((part >= start).sum()) for part in drawn], "the validation split"
    else:
        cuts, what = [round(val_fraction * len(part)) for part in drawn], f"val_fraction = {val_fraction!r}"
    for name, part, cut in zip(info.classes, drawn, cuts, strict=True):
        if not 0 < cut < len(part):
            raise InputError(
                f"{what} of {len(part)} {name} images leaves train or validation without any:"
                " change the fraction, or use more images (max_images)"
            )
    train, validation = zip(*((part[cut:], part[:cut]) for part, cut in zip(drawn, cuts, strict=True)), strict=True)
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))


def draw_train(pack: Path, *, seed: int, max_images: int | None) -> NDArray[np.int64]:
    """Return the indices of the images of both parts of `split_train` for the same arguments, ascending.

    Raises:
        InputError: If the pack is damaged, or a class would have no images.
    """
    return np.sort(np.concatenate(_draw_train(pack, seed=seed, max_images=max_images)))


def _draw_train(pack: Path, *, seed: int, max_images: int | None) -> list[NDArray[np.int64]]:
    """Return the indices to use for each class, in random order.

    Each class has its own generator, and a smaller `max_images` gives a prefix of the draw for a larger one.
    """
    info = read_pack_json(pack)
    _, labels_file = (locate(pack, name, info) for name in ("train.images", "train.labels"))
    labels = np.fromfile(labels_file, dtype=np.uint8)
    usable = np.ones(len(labels), dtype=bool)
    usable[info["leaked"] + info["duplicates"]] = False
    members = [np.flatnonzero(usable & (labels == label)) for label in (0, 1)]
    available = sum(map(len, members))
    total = available if max_images is None else min(max_images, available)
    negatives = round(total * len(members[0]) / max(available, 1))
    takes = (negatives, total - negatives)
    for name, take, own in zip(info["classes"], takes, members, strict=True):
        if take < 1:
            raise InputError(
                f"max_images = {max_images} leaves train without {name}, of which {len(own)} of {available} images"
                " are usable: raise it, or use other data"
            )
    return [np.random.default_rng([seed, label]).permutation(own)[: takes[label]] for label, own in enumerate(members)]


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

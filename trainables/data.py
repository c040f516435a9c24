"""Opens a packed data set: mapped into memory, split into train, validation and the sealed test.

A pack is a folder with, per split, `SPLIT.images` (uint8, N x 32 x 32 x 3), `SPLIT.labels` (uint8, N) and
`SPLIT.hashes` (uint64, N; of the pixels), and `pack.json`. `trainables.pack` writes it.
"""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.config import IMAGE_SIZE
from trainables.errors import InputError

CLASSES = ("FAKE", "REAL")
"""Names in the order of their labels, 0 and 1: torchvision's ImageFolder sorts them so."""
SPLITS = ("train", "test")
RECORD = "pack.json"
"""What is known of a pack; written last."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackedFiles:
    """One split's files of a pack, as they were when they were opened."""

    images: Path
    """N x 32 x 32 x 3 bytes."""
    labels: Path
    """N bytes."""
    num: int
    """N."""
    written_ns: int
    """When the images were last written; a pack made anew at the same place is another one."""

    def map(self) -> tuple[Tensor, Tensor]:
        """Map images (N, 32, 32, 3) and labels (N,), both uint8, into memory.

        The mapping is private: a tensor may be written by mistake, the file and other processes never see it.
        """
        size = self.num * IMAGE_SIZE * IMAGE_SIZE * 3
        images = torch.from_file(str(self.images), shared=False, size=size, dtype=torch.uint8)
        labels = torch.from_file(str(self.labels), shared=False, size=self.num, dtype=torch.uint8)
        return images.view(-1, IMAGE_SIZE, IMAGE_SIZE, 3), labels


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Images that are used together."""

    images: Tensor
    """uint8 (N, 32, 32, 3): the whole mapped file, shared by all processes through the page cache, or on a device."""
    labels: Tensor
    """uint8 (N,): 0 FAKE, 1 REAL."""
    indices: Tensor
    """int64 (M,): which of the N belong to the split, ascending."""
    files: PackedFiles | None = None
    """Where images and labels are mapped from; None if they only exist in memory."""

    def __len__(self) -> int:
        return self.indices.numel()

    def to(self, device: torch.device) -> Self:
        """Return the split on a device, itself if it is there; packed files are uploaded once per process.

        All N images go, so that train, validation and the trials that follow in the process share one upload:
        CIFAKE's training images take 307 MB.
        """
        here = self.images.device
        if here.type == device.type and device.index in (None, here.index):
            return self
        if self.files is None:
            images, labels = self.images.to(device), self.labels.to(device)
        else:
            images, labels = _upload(self.files, device)
        return dataclasses.replace(self, images=images, labels=labels, indices=self.indices.to(device))


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
    leaked: int
    """Training images whose pixels are also in test; no split holds them but test."""
    duplicates: int
    """Further training images left out: second copies, and every copy of an image that is in both classes."""


def load_info(pack: Path) -> PackInfo:
    """Read what a pack holds.

    Raises:
        InputError: If the folder is not a complete pack.
    """
    record = _load_record(pack)
    values = {field.name: record[field.name] for field in dataclasses.fields(PackInfo)}
    return PackInfo(**values | {"leaked": len(record["leaked"]), "duplicates": len(record["duplicates"])})


def verify(pack: Path) -> None:
    """Read every file of a pack and compare it with its checksum.

    Raises:
        InputError: If a file is altered, truncated or missing.
    """
    for name, known in _load_record(pack)["files"].items():
        with _check_size(pack, name, known["bytes"]).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                raise InputError(f"{pack / name} was altered after packing: delete the folder {pack} to pack it anew")


def open_train(pack: Path, *, val_fraction: float, seed: int, max_images: int | None) -> tuple[Split, Split]:
    """Carve a training and a validation split out of train, both with the classes in train's proportion.

    Leaked images and second copies are in neither. Only train's files are opened.

    Args:
        pack: What `trainables.pack.pack` returned.
        val_fraction: Share of the images that validates, in (0, 1).
        seed: Root of the draw, at least 0.
        max_images: Images in both splits together, at most; None is all.

    Raises:
        InputError: If the pack is broken, or a class would be without images in either split.
    """
    if not 0.0 < val_fraction < 1.0:
        raise InputError(f"val_fraction = {val_fraction!r}: expected a share between 0 and 1, both excluded")
    whole, drawn = _draw_train(pack, seed=seed, max_images=max_images)
    cuts = [round(val_fraction * len(part)) for part in drawn]
    for name, part, cut in zip(CLASSES, drawn, cuts, strict=True):
        if not 0 < cut < len(part):
            raise InputError(
                f"val_fraction = {val_fraction!r} of {len(part)} {name} images leaves train or validation without any:"
                " use another fraction, or more images (max_images)"
            )
    train = _join([part[cut:] for part, cut in zip(drawn, cuts, strict=True)])
    validation = _join([part[:cut] for part, cut in zip(drawn, cuts, strict=True)])
    return dataclasses.replace(whole, indices=train), dataclasses.replace(whole, indices=validation)


def open_full_train(pack: Path, *, seed: int, max_images: int | None) -> Split:
    """Open train and validation as one split: the union of what `open_train` gives for the same arguments.

    Raises:
        InputError: If the pack is broken, or a class would be without images.
    """
    whole, drawn = _draw_train(pack, seed=seed, max_images=max_images)
    return dataclasses.replace(whole, indices=_join(drawn))


def open_test(pack: Path) -> Split:
    """Open the official test split, whole. Only the evaluator may.

    Raises:
        InputError: If the pack is broken.
    """
    return _open_split(pack, "test", _load_record(pack))


def _draw_train(pack: Path, *, seed: int, max_images: int | None) -> tuple[Split, list[NDArray[np.int64]]]:
    """Return train, whole, and per class the indices to use in random order.

    Each class has a generator of its own, and a smaller `max_images` gives a prefix of a larger one's draw.
    """
    record = _load_record(pack)
    whole = _open_split(pack, "train", record)
    usable = np.ones(len(whole), dtype=bool)
    usable[record["leaked"] + record["duplicates"]] = False
    members = [np.flatnonzero(usable & (whole.labels.numpy() == label)) for label in range(len(CLASSES))]
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
    drawn = [np.random.default_rng([seed, label]).permutation(own)[: takes[label]] for label, own in enumerate(members)]
    return whole, drawn


def _join(parts: list[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.sort(np.concatenate(parts)))


def _open_split(pack: Path, split: str, record: dict[str, Any]) -> Split:
    """Open all images of one of a pack's two splits."""
    names = f"{split}.images", f"{split}.labels"
    images, labels = (_check_size(pack, name, record["files"][name]["bytes"]) for name in names)
    num, written_ns = labels.stat().st_size, images.stat().st_mtime_ns
    files = PackedFiles(images=images.resolve(), labels=labels.resolve(), num=num, written_ns=written_ns)
    mapped_images, mapped_labels = files.map()
    return Split(images=mapped_images, labels=mapped_labels, indices=torch.arange(num), files=files)


@functools.lru_cache(maxsize=2)
def _upload(files: PackedFiles, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy a split's images and labels to a device, or find them there; train and test have room side by side."""
    images, labels = files.map()
    return images.to(device), labels.to(device)


def _load_record(pack: Path) -> dict[str, Any]:
    try:
        record = json.loads((pack / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{pack} is not a complete pack ({error}): delete the folder to pack it anew") from error
    expected = {"files", *(field.name for field in dataclasses.fields(PackInfo))}
    if not isinstance(record, dict) or not record.keys() >= expected:
        raise InputError(f"{pack / RECORD} is not a pack's record: delete the folder {pack} to pack it anew")
    return record


def _check_size(pack: Path, name: str, size: int) -> Path:
    """Return the path of a pack's file, which must be there in full."""
    path = pack / name
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        state = "is missing" if found is None else f"has {found} bytes instead of {size}"
        raise InputError(f"{path} {state}: delete the folder {pack} to pack it anew")
    return path

"""Opens a packed data set: mapped into memory, split into train, validation and the sealed test.

`trainables.pack_info` says what a pack is and which images belong to which split.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from trainables.config import IMAGE_SIZE
from trainables.pack_info import check_size, draw_train, read_pack_json, split_train


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


def open_train(pack: Path, *, val_fraction: float, seed: int, max_images: int | None) -> tuple[Split, Split]:
    """Open the training and the validation split, as `trainables.record.split_train` carves them out of train.

    Raises:
        InputError: If the pack is broken, or a class would be without images in either split.
    """
    train, validation = split_train(pack, val_fraction=val_fraction, seed=seed, max_images=max_images)
    whole = _open_split(pack, "train")
    return (
        dataclasses.replace(whole, indices=torch.from_numpy(train)),
        dataclasses.replace(whole, indices=torch.from_numpy(validation)),
    )


def open_full_train(pack: Path, *, seed: int, max_images: int | None) -> Split:
    """Open train and validation as one split: the union of what `open_train` gives for the same arguments.

    Raises:
        InputError: If the pack is broken, or a class would be without images.
    """
    drawn = draw_train(pack, seed=seed, max_images=max_images)
    return dataclasses.replace(_open_split(pack, "train"), indices=torch.from_numpy(drawn))


def open_test(pack: Path) -> Split:
    """Open the official test split, whole. Only the evaluator may.

    Raises:
        InputError: If the pack is broken.
    """
    return _open_split(pack, "test")


def _open_split(pack: Path, split: str) -> Split:
    """Open all images of one of a pack's two splits."""
    record = read_pack_json(pack)
    names = f"{split}.images", f"{split}.labels"
    images, labels = (check_size(pack, name, record["files"][name]["bytes"]) for name in names)
    num, written_ns = labels.stat().st_size, images.stat().st_mtime_ns
    files = PackedFiles(images=images.resolve(), labels=labels.resolve(), num=num, written_ns=written_ns)
    mapped_images, mapped_labels = files.map()
    return Split(images=mapped_images, labels=mapped_labels, indices=torch.arange(num), files=files)


@functools.lru_cache(maxsize=2)
def _upload(files: PackedFiles, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy a split's images and labels to a device, or find them there; train and test have room side by side."""
    images, labels = files.map()
    return images.to(device), labels.to(device)

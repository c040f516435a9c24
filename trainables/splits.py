"""Opens the splits of a packed data set, mapped into memory: train, validation and the sealed test split.

`trainables.pack_info` describes the files; `trainables.partition` decides which images train and which validate.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from trainables.layout import SOURCE
from trainables.pack_info import locate, read_pack_json
from trainables.partition import draw_train, split_train


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackedFiles:
    """The files of a split, as they were when they were opened."""

    images: Path
    """N x size x size x 3 bytes."""
    labels: Path
    """N bytes."""
    num: int
    """N."""
    size: int
    """Height and width of an image in pixels."""
    written_ns: int
    """Modification time of the images in nanoseconds; it differs for a new pack at the same path."""

    def map(self) -> tuple[Tensor, Tensor]:
        """Map images (N, size, size, 3) and labels (N,), both uint8, into memory.

        The mapping is private: writing to a tensor by mistake changes neither the file nor other processes.
        """
        shape = (self.num, self.size, self.size, 3)
        images = torch.from_file(str(self.images), shared=False, size=math.prod(shape), dtype=torch.uint8)
        labels = torch.from_file(str(self.labels), shared=False, size=self.num, dtype=torch.uint8)
        return images.view(shape), labels


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Images that are used for one purpose."""

    images: Tensor
    """uint8 (N, size, size, 3): the whole file, mapped and shared through the page cache, or a copy on a device."""
    labels: Tensor
    """uint8 (N,): 0 or 1, 1 for the positive class."""
    indices: Tensor
    """int64 (M,): indices of the images that belong to the split, ascending."""
    files: PackedFiles | None = None
    """The files of the mapped images and labels; None if these exist only in memory."""

    def __len__(self) -> int:
        return self.indices.numel()

    def to(self, device: torch.device) -> Self:
        """Return the split on a device; packed files are uploaded once per process.

        All N images are uploaded, so that train, validation and later trials in the process share one copy. CIFAKE's
        training images take 307 MB.
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
    """Open the training and the validation split, as `trainables.partition.split_train` chooses them.

    Raises:
        InputError: If the pack is damaged, or a class would have no images in a split.
    """
    train, validation = split_train(pack, val_fraction=val_fraction, seed=seed, max_images=max_images)
    whole = _open_split(pack, "train")
    return (
        dataclasses.replace(whole, indices=torch.from_numpy(train)),
        dataclasses.replace(whole, indices=torch.from_numpy(validation)),
    )


def open_full_train(pack: Path, *, seed: int, max_images: int | None) -> Split:
    """Open train and validation as one split: the union of the splits of `open_train` for the same arguments.

    Raises:
        InputError: If the pack is damaged, or a class would have no images.
    """
    drawn = draw_train(pack, seed=seed, max_images=max_images)
    return dataclasses.replace(_open_split(pack, "train"), indices=torch.from_numpy(drawn))


def open_test(pack: Path) -> Split:
    """Open the whole test split of the data set; only search/evaluation/sealed_test.py may call this.

    Raises:
        InputError: If the pack is damaged.
    """
    return _open_split(pack, "test")


def open_elsewhere(pack: Path, left_out: Sequence[int] = ()) -> Split:
    """Open images of another source, which were packed with `Settings.classes`, without those that are left out.

    Raises:
        InputError: If the pack is damaged, or is the pack of a data set.
    """
    whole = _open_split(pack, SOURCE)
    kept = torch.ones(len(whole), dtype=torch.bool)
    kept[torch.tensor(left_out, dtype=torch.int64)] = False
    return dataclasses.replace(whole, indices=kept.nonzero()[:, 0])


def _open_split(pack: Path, split: str) -> Split:
    """Open all images of train, of test or of a source."""
    info = read_pack_json(pack)
    images, labels = (locate(pack, f"{split}.{kind}", info) for kind in ("images", "labels"))
    num, written_ns = labels.stat().st_size, images.stat().st_mtime_ns
    paths = {"images": images.resolve(), "labels": labels.resolve()}
    files = PackedFiles(**paths, num=num, size=info["size"], written_ns=written_ns)
    mapped_images, mapped_labels = files.map()
    return Split(images=mapped_images, labels=mapped_labels, indices=torch.arange(num), files=files)


@functools.lru_cache(maxsize=2)
def _upload(files: PackedFiles, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy images and labels to a device; the cache holds train and test at the same time."""
    images, labels = files.map()
    return images.to(device), labels.to(device)

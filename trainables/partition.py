"""Decides which training images of a pack train and which validate. It does not import torch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.errors import InputError
from trainables.pack_info import load_info, locate, read_pack_json


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
        raise InputError(f"data.val_fraction = {val_fraction!r}: expected a number above 0 and below 1")
    info = load_info(pack)
    drawn = _draw_train(pack, seed=seed, max_images=max_images)
    if "val" in info.counts:
        start = sum(info.counts["train"].values())
        drawn = [part[np.argsort(part < start, kind="stable")] for part in drawn]
        cuts, what = [int((part >= start).sum()) for part in drawn], "the validation split"
    else:
        cuts, what = [round(val_fraction * len(part)) for part in drawn], f"data.val_fraction = {val_fraction!r}"
    for name, part, cut in zip(info.classes, drawn, cuts, strict=True):
        if not 0 < cut < len(part):
            raise InputError(
                f"{what} of {len(part)} {name} images leaves train or validation without any:"
                " change the fraction, or raise data.max_train_images"
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
                f"data.max_train_images = {max_images} leaves train without {name}, of which {len(own)} of {available} "
                "images are usable: raise it, or use other data"
            )
    return [np.random.default_rng([seed, label]).permutation(own)[: takes[label]] for label, own in enumerate(members)]

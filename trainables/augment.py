"""Augmentation and conversion of image batches, on the batch's device. Random functions take a generator.

Batches are (N, H, W, C) uint8, as stored, until `to_float`.
"""

import torch
from torch import Tensor

GREY = 128
"""Value that covers a cut-out square: the middle of the range, near the mean of natural images."""


def flip(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mirror each image (N, H, W, C) left to right with probability one half."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(2), images)


def crop(images: Tensor, padding: int, *, generator: torch.Generator) -> Tensor:
    """Shift each image (N, H, W, C) by up to `padding` pixels in each direction; reflection fills the border.

    This equals padding by reflection and cropping at random, in one gather and without a padded copy.

    Args:
        images: Batch of any type.
        padding: Largest shift in pixels, in [0, min(H, W)); 0 leaves the images as they are.
        generator: On the device of the images.
    """
    num, height, width, channels = images.shape
    shifts = torch.randint(-padding, padding + 1, (2, num, 1), generator=generator, device=images.device)
    rows = _reflect(torch.arange(height, device=images.device) + shifts[0], height)
    columns = _reflect(torch.arange(width, device=images.device) + shifts[1], width)
    first = torch.arange(num, device=images.device)[:, None, None] * (height * width)
    pixels = first + rows[:, :, None] * width + columns[:, None, :]
    return images.reshape(-1, channels).index_select(0, pixels.flatten()).view_as(images)


def cutout(images: Tensor, size: int, *, generator: torch.Generator) -> Tensor:
    """Cover a square of each image (N, H, W, C) with grey; its centre is uniform, so it may cross the border.

    Args:
        images: Batch of uint8.
        size: Side of the square in pixels, at least 0; 0 leaves the images as they are.
        generator: On the device of the images.

    Source: DeVries and Taylor 2017, section 3.1 (arXiv:1708.04552), where the mean of the data covers.
    """
    num, height, width, _ = images.shape
    rows = _cover(num, height, size, generator)
    columns = _cover(num, width, size, generator)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[..., None], GREY)


def to_float(images: Tensor) -> Tensor:
    """Convert stored images (N, H, W, C) uint8 to (N, C, H, W) float32 in [0, 1], channels last in memory.

    The values equal those of torchvision's ToTensor.
    """
    return images.permute(0, 3, 1, 2).float().div_(255)


def _cover(num: int, length: int, size: int, generator: torch.Generator) -> Tensor:
    """Return (num, length) bool: the positions that a piece of `size` covers; its centre is drawn for each of num."""
    first = torch.randint(length, (num, 1), generator=generator, device=generator.device) - size // 2
    offsets = torch.arange(length, device=generator.device) - first
    return (offsets >= 0) & (offsets < size)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Fold positions in (-size, 2 size - 1) into [0, size), mirrored about the first and last pixel."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()

"""Changes of test images, as pictures often have them: named, seeded, with the same bits on every machine.

Pillow changes each image by itself, in integers. So a changed image does not depend on batch size or threads.
"""

import functools
import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from trainables.seed import derive_seed

Change = Callable[[Image.Image, int], Image.Image]
"""Returns an image of the same size; the number is the image's index in the test split."""


def perturb(name: str, images: Tensor, indices: Tensor) -> Tensor:
    """Return changed images.

    Args:
        name: One of PERTURBED.
        images: uint8 (B, size, size, 3).
        indices: (B,), the index of each image in the test split, which seeds its noise.

    Returns:
        uint8 (B, size, size, 3).
    """
    change = PERTURBED[name]
    pairs = zip(images.numpy(), indices.tolist(), strict=True)
    return torch.from_numpy(np.stack([np.asarray(change(Image.fromarray(image), index)) for image, index in pairs]))


def describe_perturbation(name: str, size: int) -> str:
    """Return what a perturbation does to images of a size, in a few words."""
    kind = name.rstrip("0123456789.")
    amount = float(name.removeprefix(kind) or 1)
    return WORDS[kind].format(amount=amount, side=round(size * amount))


def _compress(image: Image.Image, _: int, *, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer, formats=["JPEG"])


def _blur(image: Image.Image, _: int, *, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma))


def _add_noise(image: Image.Image, index: int, *, levels: int) -> Image.Image:
    """Add noise of this standard deviation to each value of each pixel."""
    generator = np.random.default_rng([derive_seed(0, f"noise{levels}"), index])
    pixels: NDArray[np.uint8] = np.asarray(image)
    return Image.fromarray((pixels + generator.normal(0, levels, pixels.shape)).round().clip(0, 255).astype(np.uint8))


def _scale(image: Image.Image, _: int, *, share: float) -> Image.Image:
    side = round(image.width * share)
    return _resize(_resize(image, side), image.width)


def _crop(image: Image.Image, _: int, *, share: float) -> Image.Image:
    side = round(image.width * share)
    edge = (image.width - side) // 2
    return _resize(image.crop((edge, edge, edge + side, edge + side)), image.width)


def _resize(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR)  # as trainables.pixels does


def _enhance(
    image: Image.Image, _: int, *, kind: Callable[[Image.Image], ImageEnhance._Enhance], factor: float
) -> Image.Image:
    return kind(image).enhance(factor)


PERTURBED: dict[str, Change] = {
    **{f"jpeg{quality}": functools.partial(_compress, quality=quality) for quality in (90, 75, 50, 30)},
    **{f"blur{sigma}": functools.partial(_blur, sigma=sigma) for sigma in (0.5, 1.0)},
    **{f"noise{levels}": functools.partial(_add_noise, levels=levels) for levels in (2, 5, 10)},
    **{f"scale{share}": functools.partial(_scale, share=share) for share in (0.75, 0.5)},
    "crop0.875": functools.partial(_crop, share=0.875),
    **{
        f"{name}{factor}": functools.partial(_enhance, kind=kind, factor=factor)
        for name, kind in (
            ("brightness", ImageEnhance.Brightness),
            ("contrast", ImageEnhance.Contrast),
            ("saturation", ImageEnhance.Color),
        )
        for factor in (0.8, 1.2)
    },
    "flip": lambda image, _: ImageOps.mirror(image),
    "grey": lambda image, _: ImageOps.grayscale(image).convert("RGB"),
}
"""Name -> change; the names of search.config.fields.PERTURBATIONS."""
WORDS = {
    "jpeg": "JPEG {amount:g}",
    "blur": "blur, sigma {amount:g}",
    "noise": "noise, {amount:g} levels",
    "scale": "scaled to {side} pixels",
    "crop": "inner {side} pixels",
    "brightness": "brightness x {amount:g}",
    "contrast": "contrast x {amount:g}",
    "saturation": "saturation x {amount:g}",
    "flip": "mirrored",
    "grey": "grey",
}
"""First part of a name -> description."""

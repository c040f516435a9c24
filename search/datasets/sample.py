"""The built-in sample data: small, generated from two photos, hard enough for a search. It is not CIFAKE.

REAL images are crops of the photos in scikit-learn, scaled to 32x32. FAKE images are other such crops, encoded at half
the resolution and decoded by a transposed convolution with uneven phases. That leaves a checkerboard, as generators do
(Odena et al. 2016, Deconvolution and Checkerboard Artifacts, doi:10.23915/distill.00003). The unevenness differs from
image to image, so no classifier is perfect and good ones differ in accuracy.
"""

import io
import itertools
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.durable import create_file, make_folder, replace_file
from trainables.errors import InputError

VERSION = 1
"""Version in the file's name; it is raised when the images change."""
SEED = 5
"""The seed, of 0 to 11, whose classes are most similar in mean colour and contrast."""
SIZE = 32
"""Height and width of the images in pixels."""
COUNTS = {"train": 1000, "test": 250}
"""Images per class."""
COLUMNS = {"train": ((0, 240), (400, 640)), "test": ((240, 400),)}
"""Strips of the photos, 640 pixels wide, from which each split is cropped; no crop leaves its strip."""
CROP_SIDES = (32, 160)
"""Shortest and longest side of a crop, in pixels; log-uniform between."""
UNEVENNESS = 0.5
"""Largest relative difference of a decoder's phase from the mean; uniform from 0.

This, SKIP and NOISE were tuned. With 1,600 training images the paper's CNN has 71 to 93 % after 3 epochs (batch 32, 64
and 128, 6 seeds each); a CNN with batch norm, global average pooling and a cosine schedule has 95 to 97 % after 12.
"""
SKIP = 0.3
"""Fraction of the lost detail that a skip connection restores."""
NOISE = 4.0
"""Standard deviation of the noise on the images of both classes, in levels of 255."""


def build_sample(directory: Path) -> Path:
    """Create the sample data, unless they exist.

    Args:
        directory: Folder for the zip; created if missing.

    Returns:
        A zip of 2,500 PNG images in the layout {train,test}/{REAL,FAKE}/*.png; the same bytes every time.

    Raises:
        InputError: If the folder cannot be written to.
    """
    target = directory / f"sample-v{VERSION}.zip"
    if target.exists():
        return target
    from sklearn.datasets import load_sample_images  # imported here, because it takes a second

    partial = directory / f"{target.name}.{os.getpid()}.partial"
    try:
        make_folder(directory)
        with create_file(partial) as file, zipfile.ZipFile(file, "w") as archive:
            for name, image in draw_images(load_sample_images().images):  # type: ignore[no-untyped-call]  # scikit-learn's
                archive.writestr(_describe(name), _encode(image))
        replace_file(partial, target)
    except OSError as error:
        raise InputError(f"cannot write the sample data into {directory}: {error}") from error
    return target


def draw_images(photos: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Draw the images of all splits and classes.

    Args:
        photos: (H, 640, 3) each, H at least 160.

    Yields:
        File name and image (32, 32, 3).
    """
    generator = np.random.default_rng(SEED)
    for split, label in itertools.product(COUNTS, ("FAKE", "REAL")):
        strips = [Image.fromarray(photo[:, left:right]) for photo in photos for left, right in COLUMNS[split]]
        for number in range(COUNTS[split]):
            image = _crop(strips[number % len(strips)], generator)
            if label == "FAKE":
                image = decode(image, UNEVENNESS * generator.random())
            image = image + NOISE * generator.standard_normal(image.shape)
            yield f"{split}/{label}/{number:04}.png", image.round().clip(0, 255).astype(np.uint8)


def decode(image: NDArray[np.float64], unevenness: float) -> NDArray[np.float64]:
    """Encode an image at half the resolution and decode it again.

    Contrast and mean of each colour channel equal those of the input, so that neither reveals the decoder.

    Args:
        image: (H, W, 3) with even H and W.
        unevenness: Relative difference of a decoder's phase from the mean, in [0, 1].
    """
    height, width, channels = image.shape
    code = image.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))
    lost = image - _upsample(code, 0.0)
    decoded = _upsample(code, unevenness) + SKIP * lost
    scale = image.std(axis=(0, 1)) / np.maximum(decoded.std(axis=(0, 1)), 1e-6)
    normalised: NDArray[np.float64] = (decoded - decoded.mean(axis=(0, 1))) * scale + image.mean(axis=(0, 1))
    return normalised


def _crop(strip: Image.Image, generator: np.random.Generator) -> NDArray[np.float64]:
    """Take a random square, scale it to 32x32, mirror every other one."""
    shortest, longest = CROP_SIDES
    side = round(shortest * (longest / shortest) ** generator.random())
    left, top = (int(generator.integers(length - side + 1)) for length in strip.size)
    # Anti-aliased, because Pillow's filters widen with the scale.
    scaled = strip.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    image = np.asarray(scaled, dtype=np.float64)
    return image[:, ::-1] if generator.random() < 0.5 else image


def _upsample(code: NDArray[np.float64], unevenness: float) -> NDArray[np.float64]:
    """Double height and width of (h, w, 3) by an uneven transposed convolution, stride 2, kernel (1, 3, 3, 1) / 4."""
    for _ in range(2):
        before, after = np.concatenate([code[:1], code[:-1]]), np.concatenate([code[1:], code[-1:]])
        even, odd = (3 * code + before) / 4 * (1 - unevenness), (3 * code + after) / 4 * (1 + unevenness)
        code = np.stack([even, odd], axis=1).reshape(-1, *code.shape[1:]).swapaxes(0, 1)
    return code


def _describe(name: str) -> zipfile.ZipInfo:
    """Return the header of a zip member, independent of time and operating system."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.create_system = 3
    member.external_attr = 0o644 << 16
    return member


def _encode(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()

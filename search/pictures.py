"""Pictures of any size and format that Pillow reads, as a model sees them: 32x32 RGB.

The only file that opens what a stranger drew, so it takes nothing for granted: a bad file is a reason, not an end.
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from trainables.config import IMAGE_SIZE
from trainables.decode import fit

REFUSED = {"EPS"}
"""Formats that are programs: Pillow would have Ghostscript run them."""
NOTES = {
    "resized": "not 32x32: scored on the whole picture, resized to it",
    "transparent": "transparent: composited on white",
    "animated": "several frames: the first one was scored",
    "rotated": "turned as their EXIF orientation says",
}
"""What may be done to a picture before it is scored."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A picture, ready to be scored."""

    path: Path
    width: int
    height: int
    """As stored, in pixels."""
    notes: list[str]
    """Keys of NOTES."""
    pixels: NDArray[np.uint8]
    """(32, 32, 3), RGB."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BadPicture:
    """A file that cannot be scored."""

    path: Path
    reason: str


def list_pictures(path: Path) -> list[Path]:
    """Return a folder's picture files by the ends of their names, subfolders' too, sorted; or the path itself."""
    if not path.is_dir():
        return [path]
    Image.init()
    ends = {end for end, name in Image.registered_extensions().items() if name in Image.OPEN and name not in REFUSED}
    found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    return sorted(file for file in found if file.suffix.lower() in ends and not file.name.startswith("."))


@contextlib.contextmanager
def strict_pillow() -> Iterator[None]:
    """Let Pillow raise on pictures of more than `Image.MAX_IMAGE_PIXELS`, 89 million, and be silent otherwise.

    Warnings are the process's, not a thread's, so this encloses the threads that read pictures.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_picture(path: Path) -> Picture | BadPicture:
    """Read a picture, or say why it cannot be."""
    try:
        if not path.is_file():
            return BadPicture(path=path, reason="is not a file" if path.exists() else "does not exist")
        return _read(path)
    except UnidentifiedImageError:
        return BadPicture(path=path, reason="is not a picture in a format that Pillow reads")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS or 0:,}"
        return BadPicture(path=path, reason=f"has more than {limit} pixels: it may be a decompression bomb")
    except Exception as error:  # noqa: BLE001 what a damaged file makes its decoder raise is nowhere said
        return BadPicture(path=path, reason=f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}")


def _read(path: Path) -> Picture:
    Image.init()
    with Image.open(path, formats=[name for name in Image.OPEN if name not in REFUSED]) as image:
        width, height = image.size
        notes = {
            "resized": image.size != (IMAGE_SIZE, IMAGE_SIZE),
            "transparent": image.has_transparency_data,
            "animated": getattr(image, "n_frames", 1) > 1,
            "rotated": image.getexif().get(0x0112, 1) in range(2, 9),
        }
        upright = ImageOps.exif_transpose(image) if notes["rotated"] else image
        planes = torch.from_numpy(np.array(_convert(upright))).permute(2, 0, 1)
    pixels = fit(planes).permute(1, 2, 0).contiguous().numpy()
    return Picture(
        path=path, width=width, height=height, notes=[name for name, holds in notes.items() if holds], pixels=pixels
    )


def _convert(image: Image.Image) -> Image.Image:
    """Return a picture of any mode as RGB of 8 bits; of 16 bits the upper 8 count, as in training.

    Raises:
        ValueError: If its pixels have no known range, or their mode no way to RGB.
    """
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    if image.mode.startswith("I"):
        levels = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers, whose range is not known")
    return image.convert("RGB")

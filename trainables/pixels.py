"""Decodes an image file to RGB of one size, with the same bits in training, audit and prediction.

A file may come from a stranger. A damaged one raises ImageError with a reason and never crashes the process, and its
memory is bounded. `trainables.source` reads the bytes.
"""

import contextlib
import dataclasses
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,  # noqa: F401 each plugin registers its format, once, before threads start
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from trainables import jpeg, png
from trainables.config import IMAGE_SIZE
from trainables.errors import ImageError
from trainables.tiff import measure_tile

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""Pillow's names of the accepted formats. Each is common, part of every build of Pillow, and contains only pixels.

Programs (EPS, WMF) and formats that are rarely tested with damaged files are refused. So is AVIF, which some builds
cannot read: the same files would give different packs on different machines.
"""
RULE = {
    "orientation": "upright, as the EXIF orientation says",
    "frames": "the first one",
    "depth": "8 bits; of 16 bits the upper 8, before transparency is applied",
    "transparency": "composited on white: alpha, palettes, transparent colours (compared at full depth)",
    "colour": "RGB; grey and CMYK converted, colour profiles not applied",
    "resize": "the whole image to `size`, bilinear and antialiased, by Pillow",
}
"""Steps of `decode`, in their order; part of every model record."""
MAX_PIXELS = 89_478_485
"""Larger images are refused. Source: Pillow's own limit, the pixels of 256 MB of RGB."""
SMALL = 1_000_000
"""Pixels of an image that is decoded without waiting; larger ones share MAX_PIXELS among all threads."""
UNSOUND = "is not a sound JPEG, PNG, GIF, WebP, BMP or TIFF image"
TOO_LARGE = f"has more than {MAX_PIXELS:,} pixels, as a decompression bomb has"
NO_RANGE = "pixels, whose range is not known"
ORIENTATION = 0x0112
"""Tag of the orientation in EXIF."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> transposition that turns the image upright. Source: Pillow's ImageOps.exif_transpose."""
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Two tags of TIFF, and a value of the second."""
GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Factor by which Pillow multiplies grey samples of 2 and of 4 bits, but not the transparent colour."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """A decoded image, as models see it."""

    pixels: NDArray[np.uint8]
    """(size, size, 3), RGB."""
    width: int
    height: int
    """As stored, in pixels."""
    notes: list[str]
    """Properties of the file that `decode` has changed: resized, transparent, animated, rotated."""


class _Room:
    """A limit on the pixels that all threads of the process decode at the same time."""

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until this number of pixels is free, and hold them during the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_ROOM = _Room(MAX_PIXELS)


def list_ends() -> set[str]:
    """Return the file name suffixes of the accepted formats, such as `.png`."""
    return {end for end, name in Image.EXTENSION.items() if name in FORMATS}


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings, such as those about damaged EXIF.

    Warning filters belong to the process, not to a thread: enter this before the decoding threads start.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def decode(data: bytes, size: int = IMAGE_SIZE) -> Decoded:
    """Decode the bytes of a file as RULE says, to size x size pixels.

    Raises:
        ImageError: If it is not an image of an accepted format, is damaged or too large, or has no known range.
    """
    try:
        if data.startswith(png.SIGNATURE) and not png.is_sound(data):
            raise ImageError(UNSOUND)
        if data.startswith(jpeg.SIGNATURE) and not jpeg.is_bounded(data):
            raise ImageError(UNSOUND)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                pixels = max(pixels, measure_tile(data, image.tag_v2.offset))
            if pixels > MAX_PIXELS:
                raise ImageError(TOO_LARGE)
            with _ROOM.take(pixels) if pixels > SMALL else contextlib.nullcontext():
                return _decode(image, data, size)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(TOO_LARGE) from None
    except MemoryError:
        raise ImageError("needs more memory to be decoded than there is") from None
    except Exception:  # noqa: BLE001 which errors a damaged file causes in a decoder is not documented
        raise ImageError(UNSOUND) from None


def _decode(image: ImageFile.ImageFile, data: bytes, size: int) -> Decoded:
    width, height = image.size
    raw_mode = str(image.tile[0].args) if image.format == "PNG" else None  # Pillow drops it on loading
    if image.format == "PNG":
        image.load()  # its EXIF may follow the pixels
    turn = TURNS.get(_read_orientation(image))
    image.load()
    transparent = image.has_transparency_data
    upright = _flatten(image, raw_mode, data)
    if turn is not None and image.format != "TIFF":  # Pillow turns TIFF on loading
        upright = upright.transpose(turn)
    fits = upright.size == (size, size)
    if not fits:
        upright = upright.resize((size, size), Image.Resampling.BILINEAR)
    notes = {
        "resized": not fits,
        "transparent": transparent,
        "animated": getattr(image, "is_animated", False),
        "rotated": turn is not None,
    }
    return Decoded(
        pixels=np.asarray(upright), width=width, height=height, notes=[name for name, holds in notes.items() if holds]
    )


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 unreadable EXIF does not make the pixels unusable
        return 1


def _flatten(image: Image.Image, raw_mode: str | None, data: bytes) -> Image.Image:
    """Return a loaded image of any mode as RGB of 8 bits, on white; the raw mode is Pillow's name for a PNG's samples.

    Raises:
        ImageError: If the range of its samples is unknown.
    """
    if image.mode == "F":
        raise ImageError(f"has floating point {NO_RANGE}")
    if image.mode == "I":
        raise ImageError(f"has integer {NO_RANGE}")
    if image.mode.startswith("I;16"):
        return _reduce(image)
    key = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and key is not None:
        image.info["transparency"] = key * GREY_STEPS.get(raw_mode or "", 1)
    if raw_mode == "RGB;16B" and key is not None:
        return _clear(image, key, data)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # Pillow cannot convert La to RGBA directly
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")


def _reduce(image: Image.Image) -> Image.Image:
    """Return grey of up to 16 bits as RGB; a transparent level in a PNG becomes white."""
    levels = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits = tags[BITS_PER_SAMPLE][0] if tags else 16
    grey = (levels >> (bits - 8)).astype(np.uint8)
    if tags and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow inverts samples of 8 bits only
    if (key := image.info.get("transparency")) is not None:
        grey[levels == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _clear(image: Image.Image, key: tuple[int, int, int], data: bytes) -> Image.Image:
    """Make the transparent colour white in a PNG with 16 bits per sample, of which Pillow keeps the upper 8.

    The lower 8 bits come from decoding the file again as if it had the other byte order.
    """
    with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
        again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
        lower = np.asarray(again)
    upper = np.array(image)
    colour = np.array(key)
    upper[((upper == colour >> 8) & (lower == colour & 255)).all(axis=2)] = 255
    return Image.fromarray(upper)

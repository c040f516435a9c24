"""One image file to 32x32 RGB: the rule that training, audit and prediction share, bit for bit.

A file may come from a stranger. A fault in it is an ImageError with a reason, never a crash, and it takes no more
memory than the limits allow. `trainables.source` reads the bytes.
"""

import contextlib
import dataclasses
import io
import threading
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,  # noqa: F401 each plugin registers its format: once, before the threads
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from trainables.config import IMAGE_SIZE
from trainables.errors import ImageError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""Pillow's names of the accepted formats. Each is common, is in every build of Pillow, and holds pixels only.

Refused are programs (EPS, WMF), formats that few people test for damage, and AVIF, which not every build can read: the
same files would give different packs on different machines.
"""
RULE = {
    "orientation": "upright, as the EXIF orientation says",
    "frames": "the first one",
    "depth": "8 bits; of 16 bits the upper 8, before transparency is applied",
    "transparency": "composited on white: alpha, palettes, transparent colours (compared at full depth)",
    "colour": "RGB; grey and CMYK converted, colour profiles not applied",
    "resize": "the whole image to 32x32, bilinear and antialiased, by Pillow",
}
"""What `decode` does to an image, in its order; part of every model's record."""
MAX_PIXELS = 89_478_485
"""Larger images are refused. Source: Pillow's own limit, the pixels of 256 MB of RGB."""
SMALL = 1_000_000
"""Pixels of an image that is decoded at any time; larger ones share MAX_PIXELS, however many threads decode."""
UNSOUND = "is not a sound JPEG, PNG, GIF, WebP, BMP or TIFF image"
TOO_LARGE = f"has more than {MAX_PIXELS:,} pixels, as a decompression bomb has"
NO_RANGE = "pixels, whose range is not known"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112
"""EXIF's number for it."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of an EXIF orientation upright. Source: Pillow's ImageOps.exif_transpose."""
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF, and a value of the second."""
GREY_STEPS = {"L;2": 85, "L;4": 17}
"""By how much Pillow multiplies grey samples of 2 and of 4 bits, but not the transparent colour."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """An image as models see it."""

    pixels: NDArray[np.uint8]
    """(32, 32, 3), RGB."""
    width: int
    height: int
    """As stored, in pixels."""
    notes: list[str]
    """What was done to it: resized, transparent, animated, rotated."""


class _Room:
    """Pixels that may be decoded at the same time, for all threads of the process."""

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait for room, and hold it."""
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
    """Return the ends of the names of image files, such as `.png`."""
    return {end for end, name in Image.EXTENSION.items() if name in FORMATS}


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings, of damaged EXIF and the like.

    Warnings belong to the process, not to a thread: enter this before the threads that decode start.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def decode(data: bytes) -> Decoded:
    """Decode the bytes of a file by the RULE.

    Raises:
        ImageError: If it is no image of an accepted format, damaged, too large, or without a known range.
    """
    try:
        if data.startswith(PNG_SIGNATURE):
            _check_png(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise ImageError(TOO_LARGE)
            with _ROOM.take(pixels) if pixels > SMALL else contextlib.nullcontext():
                return _decode(image, data)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(TOO_LARGE) from None
    except MemoryError:
        raise ImageError("needs more memory to be decoded than there is") from None
    except Exception:  # noqa: BLE001 what a damaged file makes a decoder raise is documented nowhere
        raise ImageError(UNSOUND) from None


def _decode(image: ImageFile.ImageFile, data: bytes) -> Decoded:
    width, height = image.size
    raw_mode = str(image.tile[0].args) if image.format == "PNG" else None  # Pillow forgets it on loading
    if image.format == "PNG":
        image.load()  # its EXIF may stand behind the pixels
    turn = TURNS.get(_read_orientation(image))
    image.load()
    transparent = image.has_transparency_data
    upright = _flatten(image, raw_mode, data)
    if turn is not None and image.format != "TIFF":  # which Pillow turns on loading
        upright = upright.transpose(turn)
    fits = upright.size == (IMAGE_SIZE, IMAGE_SIZE)
    if not fits:
        upright = upright.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
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
    except Exception:  # noqa: BLE001 EXIF that cannot be read is no reason to refuse the pixels
        return 1


def _flatten(image: Image.Image, raw_mode: str | None, data: bytes) -> Image.Image:
    """Return an image of any mode as RGB of 8 bits, on white.

    Args:
        image: Loaded.
        raw_mode: Pillow's name for the samples of a PNG.
        data: The file.

    Raises:
        ImageError: If its samples have no known range.
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
        image = image.convert("LA")  # the only way that Pillow has from there
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")


def _reduce(image: Image.Image) -> Image.Image:
    """Return grey of up to 16 bits as RGB; a transparent level, of PNG, is white."""
    levels = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits = tags[BITS_PER_SAMPLE][0] if tags else 16
    grey = (levels >> (bits - 8)).astype(np.uint8)
    if tags and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow does it for samples of 8 bits only
    if (key := image.info.get("transparency")) is not None:
        grey[levels == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _clear(image: Image.Image, key: tuple[int, int, int], data: bytes) -> Image.Image:
    """Make the transparent colour of a PNG white that has 16 bits per sample, of which Pillow keeps the upper 8.

    The lower 8 come from decoding the file again, as if it were in the other byte order.
    """
    with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
        again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
        lower = np.asarray(again)
    upper = np.array(image)
    colour = np.array(key)
    upper[((upper == colour >> 8) & (lower == colour & 255)).all(axis=2)] = 255
    return Image.fromarray(upper)


def _check_png(data: bytes) -> None:
    """Compare the checksums inside a PNG, most of which Pillow does not.

    Raises:
        ImageError: If a chunk is damaged or the last one is missing.
    """
    start, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        end = start + 8 + int.from_bytes(data[start : start + 4])
        kind = data[start + 4 : start + 8]
        if len(data) < end + 4 or zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise ImageError(UNSOUND)
        start = end + 4

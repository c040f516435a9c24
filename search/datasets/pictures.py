"""Reads picture files for prediction, decoded like the training images (`trainables.pixels`).

A bad file gives a reason and does not stop the reading of the others.
"""

import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.config import IMAGE_SIZE
from trainables.errors import ImageError, InputError
from trainables.files import find_files, read_file
from trainables.pixels import decode, list_ends

NOTES = {
    "resized": "not {size}x{size} pixels: the whole picture was resized",
    "transparent": "transparent: composited on white",
    "animated": "several frames: the first one was scored",
    "rotated": "turned as their EXIF orientation says",
}
"""Property of a file that decoding changes -> sentence about it; `size` is that of the model's images."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A picture that can be scored."""

    path: Path
    width: int
    height: int
    """As stored, in pixels."""
    notes: list[str]
    """Keys of NOTES."""
    pixels: NDArray[np.uint8]
    """(size, size, 3), RGB."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BadPicture:
    """A file that cannot be scored."""

    path: Path
    reason: str


def list_pictures(path: Path) -> list[Path]:
    """Return the picture files in a folder and its subfolders, found by their suffixes, sorted; or the path of a file.

    Raises:
        InputError: If a folder cannot be read.
    """
    if not path.is_dir():
        return [path]
    ends = list_ends()
    try:
        return sorted(
            file for file in find_files(path) if file.suffix.lower() in ends and not file.name.startswith(".")
        )
    except OSError as error:
        raise InputError(f"cannot read {error.filename} ({error.strerror}): name the pictures one by one") from None


def read_pictures(paths: Sequence[Path], size: int, batch: int) -> Iterator[list[Picture | BadPicture]]:
    """Read pictures on all cores, in order, some batches ahead."""
    pool = ThreadPoolExecutor()
    waiting: collections.deque[Future[list[Picture | BadPicture]]] = collections.deque()
    try:
        for start in range(0, len(paths), batch):
            waiting.append(pool.submit(_read_batch, paths[start : start + batch], size))
            if len(waiting) > 2 * (os.cpu_count() or 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_batch(paths: Sequence[Path], size: int) -> list[Picture | BadPicture]:
    return [read_picture(path, size) for path in paths]


def read_picture(path: Path, size: int = IMAGE_SIZE) -> Picture | BadPicture:
    """Read a picture at a size in pixels, or return the reason why it cannot be scored."""
    try:
        decoded = decode(read_file(path), size)
    except FileNotFoundError:
        return BadPicture(path=path, reason="does not exist")
    except OSError as error:
        return BadPicture(path=path, reason=f"cannot be read: {error.strerror}")
    except ImageError as error:
        return BadPicture(path=path, reason=str(error))
    return Picture(path=path, width=decoded.width, height=decoded.height, notes=decoded.notes, pixels=decoded.pixels)

"""Reads all images of a folder or a zip into memory, with their names, and finds equal ones.

All splits are read, and no image is left out. This is only for the audit: no model sees these images.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from trainables.config import IMAGE_SIZE
from trainables.decode import decode_chunks
from trainables.errors import InputError
from trainables.layout import Layout, read_layout
from trainables.source import Member, make_chunks, open_source


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """All decoded images of a source, sorted by part, then by name."""

    source: Path
    layout: Layout
    """Splits and classes; `list_parts` has the order of all lists in an audit: train/FAKE, train/REAL, ..."""
    names: list[str]
    """N paths inside the source."""
    parts: NDArray[np.int64]
    """(N,) indices into the parts."""
    pixels: NDArray[np.uint8]
    """(N, size, size, 3)."""
    first_file: NDArray[np.int64]
    """(N,) index of the first image whose file is equal; the image's own index if it is the first."""
    first_pixels: NDArray[np.int64]
    """(N,) index of the first image with equal pixels."""
    bad: list[str]
    """Names of the files that are not images."""
    resized: list[str]
    """Names of the images that had another size."""


def read_images(path: Path, progress: Callable[[int, int], None] | None = None, size: int = IMAGE_SIZE) -> Images:
    """Read and decode all images of a folder or a zip.

    Args:
        path: Folder or zip of images of two classes, with or without splits.
        progress: Called from time to time with the number of files done and the number of all files.
        size: Height and width at which the images are compared, in pixels.

    Raises:
        InputError: If it is missing, has another layout, or is corrupt.
    """
    try:
        with open_source(path) as source:
            layout = read_layout(source)
            places = {part: place for place, part in enumerate(layout.list_parts())}
            listed = ((places["/".join(each.name.split("/")[:2])], each) for each in source.measure(layout.files))
            numbered = sorted(listed, key=lambda pair: (pair[0], pair[1].name))
            members = [member for _, member in numbered]
            pixels = _reserve(path, len(members), size)
            hashes, bad, resized = bytearray(), set[str](), list[str]()
            for batch in decode_chunks(source, make_chunks(members), "skip", progress, size):
                start = len(hashes) // 8
                pixels[start : start + len(batch.hashes)] = batch.images
                hashes += b"".join(batch.hashes)
                bad.update(batch.bad)
                resized += batch.resized
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    sound = [member for member in members if member.path not in bad]
    first_file, first_pixels = _find_firsts(sound, np.frombuffer(hashes, dtype=np.uint64))
    return Images(
        source=path,
        layout=layout,
        names=[member.path for member in sound],
        parts=np.array([part for part, member in numbered if member.path not in bad], dtype=np.int64),
        pixels=pixels[: len(sound)],
        first_file=first_file,
        first_pixels=first_pixels,
        bad=[member.path for member in members if member.path in bad],
        resized=resized,
    )


def _reserve(path: Path, num: int, size: int) -> NDArray[np.uint8]:
    """Return memory for images (num, size, size, 3).

    Raises:
        InputError: If the machine has not so much free memory.
    """
    needed, free = num * size**2 * 3, psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{path}: {num:,} images of {size} pixels need {needed / 2**30:.1f} GB of memory; "
            f"{free / 2**30:.1f} GB are free: give a smaller --size"
        )
    return np.empty((num, size, size, 3), dtype=np.uint8)


def _find_firsts(members: list[Member], hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each image the index of the first image in an equal file, and of the first with equal pixels.

    Files are equal if their pixels, CRC and length are.
    """
    marks = [(hashes[row], member.crc, member.size) for row, member in enumerate(members)]
    files = np.array(marks, dtype=np.uint64).reshape(-1, 3)
    firsts = []
    for keys in (files, hashes[:, None]):
        _, index, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        firsts.append(index[inverse.ravel()])
    return firsts[0], firsts[1]

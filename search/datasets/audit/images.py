"""Reads all images of a folder or a zip into memory, with their names, and finds equal ones.

Both splits are read, and no image is left out: this serves the audit alone. No model sees what it reads.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.config import IMAGE_SIZE
from trainables.decode import decode_chunks
from trainables.errors import InputError
from trainables.pack_info import CLASSES, SPLITS
from trainables.source import Member, cut, open_source, require_classes

PARTS = tuple("/".join(part) for part in itertools.product(SPLITS, CLASSES))
"""train/FAKE, train/REAL, test/FAKE, test/REAL: the order of all lists in an audit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """All decoded images of a source, sorted by PARTS, then by name."""

    source: Path
    names: list[str]
    """N names, SPLIT/CLASS/FILE."""
    parts: NDArray[np.int64]
    """(N,) indices into PARTS."""
    pixels: NDArray[np.uint8]
    """(N, 32, 32, 3)."""
    first_file: NDArray[np.int64]
    """(N,) index of the first image whose file is equal; the image's own index if it is the first."""
    first_pixels: NDArray[np.int64]
    """(N,) index of the first image with equal pixels."""
    bad: list[str]
    """Names of the files that are not images."""
    resized: list[str]
    """Names of the images that were not 32x32."""


def read_images(path: Path, progress: Callable[[int, int], None] | None = None) -> Images:
    """Read and decode all images of a folder or a zip.

    Args:
        path: Folder or zip in the layout {train,test}/{REAL,FAKE}/*.
        progress: Called now and then with the number of files done and the number of all files.

    Raises:
        InputError: If it is missing, has another layout, or is corrupt.
    """
    try:
        with open_source(path) as source:
            members = sorted(source.list_members(), key=lambda member: (_find_part(member.name), member.name))
            require_classes(path, {PARTS[_find_part(member.name)] for member in members}, "has no images in")
            pixels = np.empty((len(members), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
            hashes, bad, resized = bytearray(), set[str](), list[str]()
            for batch in decode_chunks(source, cut(members), "skip", progress):
                start = len(hashes) // 8
                pixels[start : start + len(batch.hashes)] = batch.images
                hashes += b"".join(batch.hashes)
                bad.update(batch.bad)
                resized += batch.resized
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    sound = [member for member in members if member.name not in bad]
    first_file, first_pixels = _find_firsts(sound, np.frombuffer(hashes, dtype=np.uint64))
    return Images(
        source=path,
        names=[member.name for member in sound],
        parts=np.array([_find_part(member.name) for member in sound], dtype=np.int64),
        pixels=pixels[: len(sound)],
        first_file=first_file,
        first_pixels=first_pixels,
        bad=[member.name for member in members if member.name in bad],
        resized=resized,
    )


def _find_part(name: str) -> int:
    return PARTS.index("/".join(name.split("/")[:2]))


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

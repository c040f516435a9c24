"""All images of a folder or a zip in memory, with their names, and which of them are the same.

Nothing is packed or left out: this is for looking at the data, both splits of them. No model sees what it reads.
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
"""train/FAKE, train/REAL, test/FAKE, test/REAL: the order of everything in an audit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """All images of a source, decoded, in the order of PARTS and then of their names."""

    source: Path
    names: list[str]
    """N of them: SPLIT/CLASS/FILE."""
    parts: NDArray[np.int64]
    """(N,) indices into PARTS."""
    pixels: NDArray[np.uint8]
    """(N, 32, 32, 3)."""
    first_file: NDArray[np.int64]
    """(N,) index of the first image in the same file, byte for byte; its own if there is none before."""
    first_pixels: NDArray[np.int64]
    """(N,) index of the first image with the same pixels."""
    bad: list[str]
    """Names of the files that are not images."""
    resized: list[str]
    """Names of the images that were not 32x32."""


def read_images(path: Path, progress: Callable[[int, int], None] | None = None) -> Images:
    """Read and decode all images of a folder or a zip.

    Args:
        path: Folder or zip in the layout {train,test}/{REAL,FAKE}/*.
        progress: Told, now and then, how many files are done, and how many there are.

    Raises:
        InputError: If it is not there, not in the layout, or corrupt.
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
    """Return for each image the index of the first one in the same file, and of the first one with the same pixels.

    Files are the same if their pixels, their CRC and their length are.
    """
    marks = [(hashes[row], member.crc, member.size) for row, member in enumerate(members)]
    files = np.array(marks, dtype=np.uint64).reshape(-1, 3)
    firsts = []
    for keys in (files, hashes[:, None]):
        _, index, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        firsts.append(index[inverse.ravel()])
    return firsts[0], firsts[1]

"""Finds and reads image files on a disk, only regular ones of a bounded size; computes the checksum of any file."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trainables.errors import ImageError

MAX_BYTES = 100_000_000
"""Larger files are bad images. An uncompressed photo of 24 million pixels has 72 MB."""
TOO_LONG = f"has more than {MAX_BYTES:,} bytes"


def find_files(folder: Path) -> Iterator[Path]:
    """Find the files in a folder and its subfolders.

    Links to folders are followed. A folder that has several paths counts once, under its first path, so loops end.
    """
    seen = set()
    for path, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        state = Path(path).stat()
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders.sort()
        yield from (Path(path, file) for file in files)


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ImageError: If it is not a regular file (opening a FIFO would wait for a writer), or too long.
    """
    if not stat.S_ISREG(get_status(path).st_mode):
        raise ImageError("is not a file")
    # O_NONBLOCK: if the file has become a FIFO since then, it is opened at once, and is empty.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ImageError(TOO_LONG)
        return file.read(size + 1)  # one byte more, so that a file that grows has another CRC


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get_status(path: Path) -> os.stat_result:
    """Return the status of a file, or of the link itself if its target is missing."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return path.lstat()


def _fail(error: OSError) -> None:
    raise error

"""Image files on a disk: which there are, and their bytes; only regular files, and none beyond a limit."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trainables.errors import ImageError

MAX_BYTES = 100_000_000
"""Larger files are bad images. A photo of 24 million pixels takes 72 MB without compression."""
TOO_LONG = f"has more than {MAX_BYTES:,} bytes"


def find_files(folder: Path) -> Iterator[Path]:
    """Find the files in a folder and below.

    Links to folders are followed. A folder that is reached in several ways counts once, under the name that comes
    first, so no loop is walked twice.
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
        ImageError: If it is no regular file (opening a FIFO would wait for a writer), or too long.
    """
    if not stat.S_ISREG(look_at(path).st_mode):
        raise ImageError("is not a file")
    # a file that becomes a FIFO in between is opened at once, and is empty
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ImageError(TOO_LONG)
        return file.read(size + 1)  # a byte more, so that growing shows


def look_at(path: Path) -> os.stat_result:
    """Return the state of a file; of a link that leads nowhere, its own."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return path.lstat()


def _fail(error: OSError) -> None:
    raise error

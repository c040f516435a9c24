"""Atomic and durable files: after a kill or a power cut at any line, a file is complete or does not exist.

The content reaches the disk before the name does, and the name before the call returns. So if any later action of the
program survives a power cut, the file survives it too.
"""

import errno
import os
from pathlib import Path
from typing import BinaryIO

NOT_FOR_FOLDERS = (errno.EBADF, errno.EINVAL, errno.ENOTSUP)
"""Errors of fsync on file systems that cannot sync a folder.

Source: PostgreSQL, src/common/file_utils.c, fsync_fname; ENOTSUP is ours."""


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (is_folder and error.errno in NOT_FOR_FOLDERS):
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def create_file(path: Path) -> BinaryIO:
    """Open a new file for writing; an existing file or link of this name is removed first, never followed."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def replace_file(partial: Path, path: Path) -> None:
    """Rename a finished file to its final name, so that no reader sees a part of it."""
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_file(path: Path, content: bytes) -> Path:
    """Write a file atomically, create its folder if missing, and return its path."""
    make_folder(path.parent)
    partial = path.with_name(path.name + ".partial")
    with create_file(partial) as file:
        file.write(content)
    replace_file(partial, path)
    return path

"""Files that are there whole or not at all, and that stay: after a kill at any line, after a power cut at any line.

A file's content is on the disk before its name is, and the name is before the call returns. So nothing that a program
does next survives a power cut that the file does not.
"""

import errno
import os
from pathlib import Path
from typing import BinaryIO

NOT_FOR_FOLDERS = (errno.EBADF, errno.EINVAL, errno.ENOTSUP)
"""What fsync says on file systems that have no such thing for a folder.

Source: PostgreSQL, src/common/file_utils.c, fsync_fname; ENOTSUP is ours."""


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on the disk."""
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
    """Make a folder, and those above it that are missing."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def create_file(path: Path) -> BinaryIO:
    """Open a new file in place of what a kill left under its name; a link there is removed, never followed."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def replace_file(partial: Path, path: Path) -> None:
    """Put a finished file in its place, so that no reader meets half of it."""
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_file(path: Path, content: bytes) -> Path:
    """Write a file in one step, its folder too if missing, and return its path."""
    make_folder(path.parent)
    partial = path.with_name(path.name + ".partial")
    with create_file(partial) as file:
        file.write(content)
    replace_file(partial, path)
    return path

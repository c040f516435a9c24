"""Temporary files that no one else has prepared."""

import os
from pathlib import Path
from typing import BinaryIO


def create_file(path: Path) -> BinaryIO:
    """Create a file to write, exclusively and without following a link.

    A file or link that stands under the name, such as a kill may leave, is removed first: what a link points to stays
    as it is.

    Raises:
        OSError: If the file cannot be created, or another process creates it at the same moment.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, "w+b")

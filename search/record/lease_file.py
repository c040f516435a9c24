"""The file in which a lease is stored.

It is taken by a hard link and taken over by a rename, which are atomic on network file systems too.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CLAIM_S = 1.0
"""Seconds after which a claim counts as left by a kill; a normal claim lasts microseconds."""


LEASE_BYTES = 4096
"""Most bytes that are read of a lease, which has some hundred; a stranger's may have any number."""


class FileSlot:
    """A lease that is a file.

    The heartbeat is written into the file that this process created, which stays open. When another file gets its name,
    no process reads these heartbeats any more.
    """

    def __init__(self, path: Path) -> None:
        self.folder = str(path.parent)
        self._path = path
        self._file: int | None = None

    def read(self) -> bytes | None:
        """Return the content, None if the lease is free; opening makes a network file system ask its server."""
        return _read(self._path)

    def create(self, content: bytes) -> bool:
        """Take a free lease: link a file of this process to the name."""
        with self._draft(content) as draft:
            return _link(draft, self._path) or self.read() == content  # NFS may send a request twice

    def replace(self, before: bytes, content: bytes) -> bool:
        """Take over a lease whose content is still `before`: claim a second name, read again, rename.

        A claim that a kill left is deleted. If two processes do so at once, the file that has the name at the end wins.
        """
        claim = self._path.with_name(f"{self._path.name}.next")
        with self._draft(content) as draft:
            while not _link(draft, claim):
                left = _read(claim)
                time.sleep(CLAIM_S)
                if left is not None and _read(claim) == left:
                    claim.unlink(missing_ok=True)
            if self.read() == before:
                with suppress(FileNotFoundError):
                    claim.replace(self._path)
            else:
                claim.unlink(missing_ok=True)
            return self.read() == content

    def refresh(self, content: bytes) -> None:
        """Write a heartbeat into the file that this process created, even if another one now has its name."""
        assert self._file is not None, "a lease that was not taken has no heartbeat"
        os.pwrite(self._file, content, 0)
        os.fsync(self._file)

    def remove(self) -> None:
        """Delete the lease; the caller has checked that it is its own."""
        self._path.unlink(missing_ok=True)
        self._close()

    @contextmanager
    def _draft(self, content: bytes) -> Iterator[Path]:
        """Write the content to a file with a new name and keep it open."""
        self._close()
        path = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            os.write(self._file, content)
            os.fsync(self._file)
            yield path
        finally:
            path.unlink()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(LEASE_BYTES)
    except FileNotFoundError:
        return None


def _link(file: Path, name: Path) -> bool:
    """Link a written file to a name in one step; return whether the name was free."""
    try:
        name.hardlink_to(file)
    except FileExistsError:
        return False
    return True

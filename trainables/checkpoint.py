"""Checkpoints that survive a kill at any line: written atomically, checksummed, the one before kept.

A file is the SHA-256 of the rest (32 bytes), then what torch.save wrote; loading unpickles tensors and plain
containers only.
"""

import hashlib
import io
from pathlib import Path
from typing import Any, BinaryIO

import torch

from trainables.durable import create_file, make_folder, sync

DIGEST_BYTES = 32


class _Hashing:
    """Hashes what passes through to a file, so that no second copy of a state is ever in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.hash.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state; the one already there becomes `path` + ".previous".

    Args:
        path: File to write; its folder is made if missing.
        state: Tensors and plain containers.
    """
    make_folder(path.parent)
    partial = _add_suffix(path, ".partial")
    with create_file(partial) as file:
        file.write(bytes(DIGEST_BYTES))
        hashing: Any = _Hashing(file)
        try:
            torch.save(state, hashing)
        except RuntimeError as error:  # PyTorch's own end of the file fails, too, where the disk is full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.seek(0)
        file.write(hashing.hash.digest())
    sync(partial)
    if path.exists():
        path.replace(_add_suffix(path, ".previous"))
    partial.replace(path)
    sync(path.parent)


def load(path: Path) -> dict[str, Any] | None:
    """Read the newest intact state, its tensors on the CPU.

    Returns:
        What `save` was given last; if that file is missing, truncated or altered, the one before; None if
        neither is intact.
    """
    # A whole partial file is newer than the one before: the kill came between the two renames.
    for candidate in (path, _add_suffix(path, ".partial"), _add_suffix(path, ".previous")):
        payload = _read_intact(candidate)
        if payload is not None:
            state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
            return state
    return None


def _read_intact(path: Path) -> memoryview | None:
    """Return what follows the checksum, or None if there is no file or the checksum does not hold."""
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return payload if hashlib.sha256(payload).digest() == digest else None


def _add_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)

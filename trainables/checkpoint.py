"""Checkpoints that survive a kill at any line: atomic writes, a checksum, and the previous file kept.

A file starts with the SHA-256 of the rest (32 bytes), or its HMAC with a key. The rest is the output of torch.save.
Loading unpickles tensors and plain containers only.
"""

import hashlib
import hmac
import io
from pathlib import Path
from typing import Any, BinaryIO

import torch

from trainables.durable import create_file, make_folder, sync

DIGEST_BYTES = 32


class _Hashing:
    """A file that hashes what is written to it, so that memory holds no second copy of a state."""

    def __init__(self, file: BinaryIO, key: bytes) -> None:
        self._file = file
        self.hash = _start_hash(key)

    def write(self, content: bytes) -> int:
        self.hash.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def save(path: Path, state: dict[str, Any], key: bytes = b"") -> None:
    """Write a state; an existing file is kept as `path` + ".previous".

    Args:
        path: File to write; its folder is created if missing.
        state: Tensors and plain containers.
        key: Without it the state cannot be loaded.
    """
    make_folder(path.parent)
    partial = _add_suffix(path, ".partial")
    with create_file(partial) as file:
        file.write(bytes(DIGEST_BYTES))
        hashing: Any = _Hashing(file, key)
        try:
            torch.save(state, hashing)
        except RuntimeError as error:  # on a full disk PyTorch also fails to finish the file, and hides the OSError
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


def load(path: Path, key: bytes = b"") -> dict[str, Any] | None:
    """Read the newest intact state, its tensors on the CPU; a state that was saved with another key is not intact.

    Returns:
        The state that was saved last, or the one before if the last file is missing, truncated or altered. None if
        neither is intact.
    """
    # If the partial file is complete, it is newer than the previous one: a kill came between the two renames.
    for candidate in (path, _add_suffix(path, ".partial"), _add_suffix(path, ".previous")):
        payload = _read_intact(candidate, key)
        if payload is not None:
            state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
            return state
    return None


def _read_intact(path: Path, key: bytes) -> memoryview | None:
    """Return the bytes after the checksum; None if the file is missing or the checksum is wrong."""
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    known = _start_hash(key)
    known.update(payload)
    return payload if hmac.compare_digest(known.digest(), digest) else None


def _start_hash(key: bytes) -> Any:
    """Return a new hash: SHA-256, or its HMAC if there is a key."""
    return hmac.new(key, digestmod="sha256") if key else hashlib.sha256()


def _add_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)

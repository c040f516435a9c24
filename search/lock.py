"""One driver per study: a lock file that names its holder, and that a dead holder does not keep.

Taking it is one hard link, which is atomic on network file systems too. Only a process of the same host can tell that a
holder is dead, so taking over is made safe by a lock of that host's kernel.
"""

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from trainables.errors import InputError


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock for as long as the block lasts.

    Raises:
        InputError: If another driver holds it; the message has its process, host and time.
    """
    _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_holder(path: Path) -> str | None:
    """Return who holds the lock, None where nobody does; of a holder on another host whether it lives is not known."""
    try:
        holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    gone = holder["host"] == platform.node() and not _is_alive(holder)
    return None if gone else _describe(holder)


def _acquire(path: Path) -> None:
    mine = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
    holder = {
        "host": platform.node(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with mine.open("w", encoding="utf-8") as file:
        json.dump(holder, file)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        while not _link(mine, path):
            _take_over(path)
    finally:
        os.close(folder)
        mine.unlink()


def _link(mine: Path, path: Path) -> bool:
    """Put a written file under the lock's name in one step, unless the name is taken."""
    try:
        path.hardlink_to(mine)
    except FileExistsError:
        return False
    return True


def _take_over(path: Path) -> None:
    """Remove the lock of a process that is gone.

    Raises:
        InputError: If it lives, or lived on another host, where nobody here can look.
    """
    try:
        holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        raise InputError(f"{path} cannot be read; if no other process searches {path.parent}, delete it") from None
    if holder["host"] != platform.node():
        cure = f"if that one is gone, delete {path}"
    elif _is_alive(holder):
        cure = "stop it first, or wait for it"
    else:
        path.unlink()
        return
    raise InputError(f"{path.parent} is being searched by {_describe(holder)}: {cure}")


def _describe(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def _is_alive(holder: dict[str, Any]) -> bool:
    """Answer whether the very process that wrote the lock runs, and no later one with its number."""
    try:
        started: float = psutil.Process(holder["pid"]).create_time()
    except psutil.NoSuchProcess:
        return False
    return abs(started - float(holder["process_started"])) < 1.0

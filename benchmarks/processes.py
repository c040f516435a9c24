"""Programs that are measured from outside, with all that they started."""

import contextlib
import subprocess
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent


def look(pid: int) -> tuple[float, int]:
    """Return the memory in bytes, each page counted once, and the number of a process and all that it started."""
    sizes = []
    for member in list_family(pid):
        try:
            sizes.append(member.memory_full_info().pss)
        except psutil.Error:
            continue
    return sum(sizes), len(sizes)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and all that it started, at once; one that has ended is left alone.

    By then the system may have given its number to another process, or to a thread: Ray starts hundreds of them, and a
    signal to a thread's number ends the process that it belongs to.
    """
    if process.poll() is None:
        for member in list_family(process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def list_family(pid: int) -> list[psutil.Process]:
    """Return a process and all that it started; none if it is gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []

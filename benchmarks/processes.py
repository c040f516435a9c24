"""Programs that are measured from outside, with all processes that they started."""

import contextlib
import subprocess
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent


def look(pid: int) -> tuple[float, int]:
    """Return memory in bytes (each page once) and number of processes, for a process and all that it started."""
    sizes = []
    for member in list_family(pid):
        try:
            sizes.append(member.memory_full_info().pss)
        except psutil.Error:
            continue
    return sum(sizes), len(sizes)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and all processes that it started, at once; do nothing if the program has ended.

    After its end the system may have given its number to another process, or to a thread: Ray starts hundreds of
    threads, and a signal to a thread's number ends the process of that thread.
    """
    if process.poll() is None:
        for member in list_family(process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def list_family(pid: int) -> list[psutil.Process]:
    """Return a process and all processes that it started; an empty list if it has ended."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []

"""Ray's life on this machine: why it cannot start, and whether the processes live without which nothing is heard."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray._common.utils import get_default_system_temp_dir

from search.cluster.signals import give_up

LOOK_S = 1.0
"""Seconds between two looks at Ray's processes."""
MAX_TMPDIR = 28
"""Bytes that always fit: a socket's path has 107, and Ray's own part of it, with a process number of 7 digits, 79."""


@contextmanager
def watch_ray() -> Iterator[None]:
    """End the program with a sentence as soon as Ray's raylet here, or its GCS if that is here, dies within the block.

    Calls of Ray then wait for a minute or for ever. The death of any other process of Ray is survived, or the raylet
    follows it: an agent's, for one.
    """
    needed = list_needed()
    stop = threading.Event()
    watch = threading.Thread(target=_watch, args=(needed, stop), daemon=True, name="ray's life")
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()


def list_needed() -> dict[str, psutil.Process]:
    """Return by name the processes of the connected Ray that run here and that it cannot do without."""
    node: Any = ray._private.worker.global_worker.node
    signs = {
        "raylet": f"--raylet_socket_name={node.raylet_socket_name}",  # other nodes' begin in the same way
        "gcs_server": f"--session-name={node.session_name}",
    }
    return {
        name: process
        for process in psutil.process_iter(["name", "cmdline"])
        if (name := process.info["name"]) in signs and signs[name] in (process.info["cmdline"] or ())
    }


def explain_start(error: Exception) -> str:
    """Return the sentence about a Ray of our own that cannot start, from what it raised."""
    folder = get_default_system_temp_dir()
    reason = str(error).strip().partition("\n")[0]
    if "AF_UNIX path length" in reason:
        cure = f"set TMPDIR to a path of at most {MAX_TMPDIR} bytes"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        cure = f"free some space in {folder}, or set TMPDIR to a folder that has some"
    elif isinstance(error, OSError):
        cure = f"HOME and {folder} must be folders that you may write to; set TMPDIR to another one"
    elif "object store" in reason or "memory" in reason.lower():
        cure = "free some memory, or give this machine or container more"
    else:
        cure = "end what an earlier Ray left (`ray stop`), or free memory, then try again"
    return f"Ray cannot start on this machine ({reason}): {cure}"


def _watch(needed: dict[str, psutil.Process], stop: threading.Event) -> None:
    while not stop.wait(LOOK_S):
        for name, process in needed.items():
            if not is_alive(process) and not stop.is_set():
                give_up(f"Ray's process {name} died")


def is_alive(process: psutil.Process) -> bool:
    """Answer whether a process runs; one that has ended and that its parent has not asked about does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

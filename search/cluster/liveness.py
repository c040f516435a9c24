"""Ends the program when one of Ray's vital processes on this machine dies."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray

from search.cluster.signals import abort

LOOK_S = 1.0
"""Seconds between two checks of Ray's processes."""


@contextmanager
def watch_ray() -> Iterator[None]:
    """End the program with a sentence when the raylet of this machine, or a GCS on it, dies within the block.

    Without them, calls of Ray wait for a minute or for ever. If any other process dies, Ray continues, or its raylet
    ends too, as it does when one of its agents dies.
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
    """Return by name the vital processes of the connected Ray that run on this machine."""
    node: Any = ray._private.worker.global_worker.node
    signs = {
        "raylet": f"--raylet_socket_name={node.raylet_socket_name}",  # names of other nodes may begin alike
        "gcs_server": f"--session-name={node.session_name}",
    }
    return {
        name: process
        for process in psutil.process_iter(["name", "cmdline"])
        if (name := process.info["name"]) in signs and signs[name] in (process.info["cmdline"] or ())
    }


def _watch(needed: dict[str, psutil.Process], stop: threading.Event) -> None:
    while not stop.wait(LOOK_S):
        for name, process in needed.items():
            if not is_alive(process) and not stop.is_set():
                abort(f"Ray's process {name} died")


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

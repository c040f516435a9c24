"""Ends the process at once, without clean-up: everything that counts is on disk already."""

import contextlib
import os
import sys
from typing import NoReturn

import psutil

from search.config.printable import escape

SHOW_CURSOR = b"\x1b[?25h"
"""Source: DECTCEM, DEC VT510 manual."""


def leave(message: str, code: int) -> NoReturn:
    """End this process, with a line on standard error, and all processes that it started.

    Some of Ray's processes would search the others for a minute. W&B's service ends by itself when its files are whole.
    """
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        if os.isatty(1):  # not sys.stdout, which is redirected to nothing while Ray runs
            os.write(1, SHOW_CURSOR)
        os.write(sys.stderr.fileno(), f"{escape(message)}\n".encode())
    try:
        for child in _list_children():
            with contextlib.suppress(psutil.Error):
                if not child.name().startswith("wandb-core"):
                    child.kill()
    finally:  # whatever the list of processes raises
        os._exit(code)


def _list_children() -> list[psutil.Process]:
    """Return all processes below this one.

    psutil's `children` compares start times by the system's clock, so it may leave out one that is a second old.
    """
    parents: dict[int, int | None] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            parents[process.pid] = process.ppid()
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return [process for process in psutil.process_iter() if process.pid in family - {os.getpid()}]

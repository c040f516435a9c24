"""Leaving at once, without any clean-up: everything that counts is on the disk already."""

import contextlib
import os
import sys
from typing import NoReturn

from search.printable import escape

SHOW_CURSOR = b"\x1b[?25h"
"""Source: DECTCEM, DEC VT510 manual."""


def leave(message: str, code: int) -> NoReturn:
    """End this process with a line on standard error; Ray's processes end when they miss their driver."""
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
        if os.isatty(1):  # not sys.stdout, which leads nowhere while Ray runs
            os.write(1, SHOW_CURSOR)
        os.write(sys.stderr.fileno(), f"{escape(message)}\n".encode())
    os._exit(code)

"""Ctrl-C: the first press ends a search in good order, a second one the program at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from search.exit import leave

INTERRUPTED = "interrupted; the same command with --resume goes on from here"
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


class Interrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C; the study can be resumed."""


@contextmanager
def watch_interrupt() -> Iterator[list[int]]:
    """Yield a list that holds something once Ctrl-C was pressed; from then on, a second press ends the program at once.

    That holds after the block too: the program is on its way out, and the journal needs no farewell.
    """
    pressed: list[int] = []

    def note(number: int, _: Any) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, _leave)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if not pressed:
            signal.signal(signal.SIGINT, before)


def _leave(*_: Any) -> None:
    leave(INTERRUPTED, EXIT_INTERRUPTED)

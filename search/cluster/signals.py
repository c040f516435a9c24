"""Ctrl-C, SIGTERM and SIGHUP end a program in good order; a second signal ends it at once.

Python handles signals in the main thread, which may be waiting in a library that never returns. So a thread reads them
too, from the descriptor that Python's own handler writes to, and ends the program if the main thread does not.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from search.record.exit import leave

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 6.0
"""Seconds that an end in good order may take after SIGTERM or SIGHUP, because SIGKILL may follow. After Ctrl-C there is
no limit."""

_received: list[int] = []
"""Signals of SIGNALS that this process received within `handle_signals`; global, as signals are."""
_again: str | None = None
"""Command that continues the work of this program."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end; the study can be resumed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        """The signal; SIGPIPE if the output is no longer read."""


@contextmanager
def handle_signals(again: str | None) -> Iterator[None]:
    """Raise Interrupted in the block at the first signal; end the program at the second, or after the grace period.

    After the first signal this stays so after the block too: the program is ending, and all facts are on the disk. A
    signal that was ignored before stays ignored.

    Args:
        again: Name of the command that continues the work, such as `the same command`; None if there is none.
    """
    global _again
    _again = again
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_enforce, args=(reader,), daemon=True, name="signals").start()
    is_ending = False
    try:
        with watch_signals(is_raised=True):
            yield
    except Interrupted:
        is_ending = True
        raise
    finally:
        if not is_ending:
            signal.set_wakeup_fd(before)
            os.close(writer)  # which ends the thread


@contextmanager
def watch_signals(*, is_raised: bool = False) -> Iterator[list[int]]:
    """Yield the list of signals received; once it has one, any error of the block becomes Interrupted.

    With `is_raised` the first signal raises Interrupted in the main thread.
    """
    pressed: list[int] = []

    def note(number: int, _: Any) -> None:
        pressed.append(number)
        if is_raised and len(pressed) == 1:
            raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    watched = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]  # by nohup, for one
    for number in watched:
        signal.signal(number, note)
    try:
        yield pressed
    except BaseException:
        if pressed:
            raise Interrupted(pressed[0]) from None
        raise
    finally:
        if not pressed:
            for number in watched:
                signal.signal(number, before[number])


@contextmanager
def restore_handlers() -> Iterator[None]:
    """Restore the handlers of signals after a block that sets its own; if a signal ends it, raise Interrupted."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM or _received:
            raise Interrupted(_received[0] if _received else signal.SIGTERM) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def explain(number: int, again: str | None) -> str:
    """Return the sentence that says what ended the program, and which command continues its work."""
    what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return f"{what}; {again} continues from here" if again else what


def abort(what: str) -> NoReturn:
    """End the program at once, from any thread, because something that it needs is gone; report a signal first."""
    if _received:
        time.sleep(GRACE_S)
        _leave()
    leave(f"error: {what}; {_again or 'the same command'} continues from here", 1)


def _enforce(reader: int) -> None:
    with open(reader, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] not in SIGNALS:
                continue
            _received.append(number[0])
            if len(_received) > 1:
                _leave()
            if number[0] != signal.SIGINT:
                threading.Thread(target=_leave, args=(GRACE_S,), daemon=True).start()


def _leave(after_s: float = 0.0) -> NoReturn:
    time.sleep(after_s)
    leave(explain(_received[0], _again), 128 + _received[0])

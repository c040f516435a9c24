"""What the commands share: where they print, and how they say that they cannot go on."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from search.cluster.agreement import NodeError
from search.cluster.store import StoreError
from search.interrupt import Interrupted, announce_end, explain
from search.storage import StorageLost, describe_loss
from trainables.errors import DISK_FAULTS, DISK_FULL, InputError, TrainingError


class _Console(Console):
    """A console that takes a closed pipe for what it is, a wish for the end, in whatever thread prints."""

    def on_broken_pipe(self) -> None:
        _discard_output()
        raise Interrupted(signal.SIGPIPE)


def build_console() -> Console:
    """Build the console for standard output; where that is no terminal, lines are as long as they are."""
    return _Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())


@contextmanager
def explain_errors(again: str | None = None) -> Iterator[None]:
    """Turn what the user can mend into a sentence and an exit code.

    Args:
        again: What goes on after an interruption, such as `the same command with --resume`; None if nothing was begun.
    """
    if again and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; who sends it means it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with _put_into_words(again), announce_end(again):
        try:
            yield
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be handled


@contextmanager
def _put_into_words(again: str | None) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except TrainingError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except StorageLost as error:
        typer.echo(f"error: the database was lost ({describe_loss(error)}); {again} goes on from here", err=True)
        raise typer.Exit(1) from None
    except (NodeError, StoreError) as error:
        typer.echo(f"error: {error}; {again or 'the same command'} goes on from here", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        raise typer.Exit(_explain_fault(error, again)) from None
    except KeyboardInterrupt as error:
        raise typer.Exit(_explain_end(error, again)) from None


def _explain_fault(error: OSError, again: str | None) -> int:
    """Say which fault of a disk ends the command and return its exit code; another error is raised again."""
    if error.errno == errno.EPIPE:
        _discard_output()
        return 128 + signal.SIGPIPE
    if error.errno not in DISK_FAULTS:
        raise error
    what, cure = ("no space left", "free some") if error.errno in DISK_FULL else ("a disk failed", "mend it")
    typer.echo(f"error: {what} ({error}); {cure}, then {again or 'the same command'} goes on", err=True)
    return 1


def _explain_end(error: KeyboardInterrupt, again: str | None) -> int:
    """Say what asked the command to end and return its exit code."""
    number = error.number if isinstance(error, Interrupted) else signal.SIGINT
    if number == signal.SIGHUP:
        _discard_output()  # the terminal may be gone
    if number != signal.SIGPIPE:
        with contextlib.suppress(OSError):
            typer.echo(explain(number, again), err=True)
    return 128 + number


def _discard_output() -> None:
    """Let what is still printed go nowhere, so that Python does not complain of it as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

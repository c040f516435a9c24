"""The console, the error messages and the exit codes of all commands."""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from search.cluster.job import NodeError
from search.cluster.signals import Interrupted, explain, handle_signals
from search.config.printable import escape, escape_lines
from search.record.errors import StorageLost, StoreError, describe_loss
from trainables.errors import DISK_FAULTS, DISK_FULL, InputError, TrainingError

IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of a path at which there is a file in place of a folder, or the reverse."""

CodeOption = Annotated[
    Path | None, typer.Option("--code", help="Folder of your module:Name code; the code is executed.")
]


class _Terminal(Console):
    """A console that prints control characters escaped, also in tables.

    A closed pipe ends the command quietly, in every thread.
    """

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(escape_lines(text), **how)

    def on_broken_pipe(self) -> None:
        _discard_output()
        raise Interrupted(signal.SIGPIPE)


def build_console(*, wrap: bool = False) -> Console:
    """Build the console for standard output.

    Args:
        wrap: Whether lines are wrapped even if the output is not a terminal.
    """
    soft_wrap = not wrap and not sys.stdout.isatty()
    return _Terminal(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


@contextmanager
def explain_errors(again: str | None = None) -> Iterator[None]:
    """Turn errors that the user can correct into a sentence and an exit code.

    Args:
        again: The command that continues after an interruption, such as `the same command with --resume`; None if there
            is nothing to continue.
    """
    if again and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A background job of a shell ignores SIGINT; a sent one is meant.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of characters that an encoding such as ASCII lacks
    with _put_into_words(again), handle_signals(again):
        try:
            yield
        finally:
            sys.stdout.flush()  # a closed pipe can still be handled here


def check_target(path: Path) -> None:
    """Check, before the work begins, that a new file can be written.

    Raises:
        InputError: If the file exists, or its folder does not or may not be entered.
    """
    try:
        exists, has_folder = path.exists(), path.parent.is_dir()
    except OSError as error:  # Python 3.14 returns False in its place
        raise InputError(f"cannot write {path} ({error.strerror}): write elsewhere") from None
    if exists:
        raise InputError(f"{path} exists: remove it, or give another name")
    if not has_folder:
        raise InputError(f"{path.parent} is not a folder: make it, or write elsewhere")


@contextmanager
def _put_into_words(again: str | None) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        _complain(str(error))
        raise typer.Exit(2) from None
    except TrainingError as error:
        _complain(str(error))
        raise typer.Exit(1) from None
    except StorageLost as error:
        _complain(f"the database was lost ({describe_loss(error)}); {again or 'the same command'} continues from here")
        raise typer.Exit(1) from None
    except (NodeError, StoreError) as error:
        _complain(f"{error}; {again or 'the same command'} continues from here")
        raise typer.Exit(1) from None
    except MemoryError:
        _complain(f"there is not enough memory; free some, then {again or 'the same command'} continues")
        raise typer.Exit(1) from None
    except OSError as error:
        raise typer.Exit(_explain_fault(error, again)) from None
    except KeyboardInterrupt as error:
        raise typer.Exit(_explain_end(error, again)) from None


def _explain_fault(error: OSError, again: str | None) -> int:
    """Print which disk error ends the command and return the exit code; raise any other error again."""
    if error.errno == errno.EPIPE:
        _discard_output()
        return 128 + signal.SIGPIPE
    if error.errno in IN_THE_WAY and error.filename is not None:
        _complain(f"{error.filename} is in the way ({(error.strerror or '').lower()}): remove it or rename it")
        return 2
    if error.errno not in DISK_FAULTS:
        raise error
    what, cure = ("no space left", "free some space") if error.errno in DISK_FULL else ("a disk failed", "repair it")
    _complain(f"{what} ({error}); {cure}, then {again or 'the same command'} continues")
    return 1


def _explain_end(error: KeyboardInterrupt, again: str | None) -> int:
    """Print which signal ends the command and return the exit code."""
    number = error.number if isinstance(error, Interrupted) else signal.SIGINT
    if number == signal.SIGHUP:
        _discard_output()  # the terminal may be gone
    if number != signal.SIGPIPE:
        with contextlib.suppress(OSError):
            typer.echo(explain(number, again), err=True)
    return 128 + number


def _discard_output() -> None:
    """Discard further output, so that Python reports no error about it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _complain(message: str) -> None:
    """Print an error in one line, with control characters escaped."""
    typer.echo(f"error: {escape(message)}", err=True)

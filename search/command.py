"""What the commands share: where they print, and how they say that they cannot go on."""

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from search.cluster.agreement import NodeError
from search.cluster.store import StoreError
from search.printable import escape, escape_lines
from search.storage import StorageLost, describe_loss
from trainables.errors import DISK_FULL, InputError, TrainingError


class _Terminal(Console):
    """A console on which no text, in a table neither, does more than show itself."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(escape_lines(text), **how)


def build_console(*, wrap: bool = False) -> Console:
    """Build the console for standard output.

    Args:
        wrap: Whether lines are wrapped even where that is no terminal.
    """
    soft_wrap = not wrap and not sys.stdout.isatty()
    return _Terminal(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


@contextmanager
def explain_errors(again: str | None = None) -> Iterator[None]:
    """Turn what the user can mend into a sentence and an exit code.

    Args:
        again: What goes on after an interruption, such as `the same command with --resume`; None if nothing was begun.
    """
    if again and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; who sends it means it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _accept_all_signs()
    try:
        yield
    except InputError as error:
        _complain(str(error))
        raise typer.Exit(2) from None
    except TrainingError as error:
        _complain(str(error))
        raise typer.Exit(1) from None
    except StorageLost as error:
        _complain(f"the database was lost ({describe_loss(error)}); {again} goes on from here")
        raise typer.Exit(1) from None
    except (NodeError, StoreError) as error:
        _complain(f"{error}; {again or 'the same command'} goes on from here")
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _complain(f"no space left ({error}); free some, then {again or 'the same command'} goes on")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {again} goes on from here" if again else "interrupted", err=True)
        raise typer.Exit(130) from None


def _accept_all_signs() -> None:
    """Have the output show as escapes what its encoding, such as ASCII, has no sign for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(message: str) -> None:
    """Print an error in one line, whatever names it quotes."""
    typer.echo(f"error: {escape(message)}", err=True)

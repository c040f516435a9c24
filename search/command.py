"""What the commands share: where they print, and how they say that they cannot go on."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from search.cluster.agreement import NodeError
from search.cluster.store import StoreError
from search.storage import StorageLost, describe_loss
from trainables.errors import DISK_FULL, InputError, TrainingError


def build_console() -> Console:
    """Build the console for standard output; where that is no terminal, lines are as long as they are."""
    return Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())


@contextmanager
def explain_errors(again: str | None = None) -> Iterator[None]:
    """Turn what the user can mend into a sentence and an exit code.

    Args:
        again: What goes on after an interruption, such as `the same command with --resume`; None if nothing was begun.
    """
    if again and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; who sends it means it
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
        if error.errno not in DISK_FULL:
            raise
        typer.echo(f"error: no space left ({error}); free some, then {again or 'the same command'} goes on", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {again} goes on from here" if again else "interrupted", err=True)
        raise typer.Exit(130) from None

"""What a search shows while it runs: a live view on a terminal, one line per event elsewhere."""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.journal import State, Trial
from trainables.config import list_defaults

REFRESHES_PER_SECOND = 4
STYLES = {State.COMPLETE: "green", State.PRUNED: "yellow", State.FAIL: "red"}


class PlainLog:
    """Listener that prints one line per event."""

    def __init__(self, *, max_epochs: int, console: Console) -> None:
        self._max_epochs = max_epochs
        self._console = console

    def on_start(self, trial: Trial) -> None:
        """Print the trial's parameters."""
        begins = f"goes on at epoch {len(trial.epochs) + 1}" if trial.epochs else "starts"
        self.note(f"{_name(trial)} {begins}: {format_params(trial.params)}")

    def on_epoch(self, trial: Trial) -> None:
        """Print the last epoch."""
        last = trial.epochs[-1]
        epoch = f"epoch {len(trial.epochs)}/{self._max_epochs}"
        self.note(f"{_name(trial)} {epoch}: accuracy {last['accuracy']:.4f}, loss {last['loss']:.4f}, {_speed(trial)}")

    def on_end(self, trial: Trial) -> None:
        """Print how the trial ended."""
        count = f"{len(trial.epochs)} epoch{'' if len(trial.epochs) == 1 else 's'}"
        if trial.state is State.FAIL or not trial.epochs:
            result = str(trial.reason)
        else:
            last, best = trial.epochs[-1]["accuracy"], trial.get_peak()[0]
            result = f"accuracy {last:.4f} (best {best:.4f}), {_speed(trial)}"
        self.note(f"{_name(trial)} {trial.state} after {count}: {result}")

    def note(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing is left to do."""


class LiveView:
    """Listener that keeps a picture of the search at the lower end of a terminal."""

    def __init__(
        self,
        *,
        total_trials: int,
        max_epochs: int,
        max_hours: float | None,
        console: Console,
        trials: Sequence[Trial] = (),
        elapsed_s: float = 0.0,
    ) -> None:
        self._total_trials = total_trials
        self._max_epochs = max_epochs
        self._max_s = None if max_hours is None else max_hours * 3600
        self._console = console
        self._trials = {trial.number: trial for trial in trials}
        self._peaks = {trial.number: trial.get_peak() for trial in trials if trial.epochs}
        self._running: dict[int, Trial] = {}
        self._ended = 0
        self._begun = time.monotonic()
        self._elapsed_before_s = elapsed_s
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=REFRESHES_PER_SECOND)

    def on_start(self, trial: Trial) -> None:
        """Show the trial among the running ones."""
        self._trials[trial.number] = self._running[trial.number] = trial
        if trial.epochs:
            self._peaks[trial.number] = trial.get_peak()
        self._live.start()

    def on_epoch(self, trial: Trial) -> None:
        """Take in the last epoch."""
        self._peaks[trial.number] = trial.get_peak()

    def on_end(self, trial: Trial) -> None:
        """Count the trial as ended; a failed one also leaves a line with its reason."""
        self._trials[trial.number] = trial
        self._running.pop(trial.number, None)
        self._ended += 1
        if trial.state is State.FAIL:
            self.note(f"{_name(trial)} FAIL: {trial.reason}")

    def note(self, message: str) -> None:
        """Print a line above the view."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last picture and give the terminal back."""
        self._live.stop()

    def render(self) -> RenderableType:
        """Return the picture as of now; called from the thread that refreshes it."""
        trials = list(self._trials.values())
        return Group(self._render_budget(trials), "", self._render_best(trials), "", self._render_running())

    def _render_budget(self, trials: Sequence[Trial]) -> RenderableType:
        states = Counter(trial.state for trial in trials)
        ended = len(trials) - states[State.RUNNING]
        counts = Text("  ").join(Text(f"{state} {states[state]}", style) for state, style in STYLES.items())
        bar = Table.grid(padding=(0, 2))
        bar.add_row("trials", ProgressBar(self._total_trials, ended, width=20), f"{ended}/{self._total_trials}", counts)
        elapsed_s = self._elapsed_before_s + time.monotonic() - self._begun
        left_s = self._estimate_left_s(ended)
        times = [
            f"epochs {sum(len(trial.epochs) for trial in trials)}",
            f"elapsed {_clock(elapsed_s)}" + ("" if self._max_s is None else f" of {_clock(self._max_s)}"),
            "" if left_s is None else f"about {_clock(left_s)} left",
        ]
        return Group(bar, Text("   ".join(times)))

    def _estimate_left_s(self, ended: int) -> float | None:
        """Seconds to go at the pace of this run, and at most what the budget leaves."""
        elapsed_s = time.monotonic() - self._begun
        pace = [(self._total_trials - ended) * elapsed_s / self._ended] if self._ended else []
        budget = [] if self._max_s is None else [max(self._max_s - self._elapsed_before_s - elapsed_s, 0.0)]
        return min(pace + budget, default=None)

    def _render_best(self, trials: Sequence[Trial]) -> RenderableType:
        best: dict[str, Trial] = {}
        for trial in trials:
            if trial.number in self._peaks and trial.state is not State.FAIL:
                rival = best.get(trial.architecture)
                if rival is None or self._peaks[trial.number][0] > self._peaks[rival.number][0]:
                    best[trial.architecture] = trial
        table = _build_table("best", "accuracy", "trial", "epoch")
        table.add_column("differs from the defaults in", overflow="fold")
        for architecture, trial in sorted(best.items()):
            accuracy, epoch = self._peaks[trial.number]
            defaults = list_defaults(architecture)
            changed = {name: value for name, value in trial.params.items() if defaults.get(name) != value}
            table.add_row(architecture, f"{accuracy:.4f}", str(trial.number), str(epoch), format_params(changed))
        return table

    def _render_running(self) -> RenderableType:
        table = _build_table("running", "trial", "epoch", "accuracy", "best", "loss", "images/s")
        for trial in list(self._running.values()):
            epoch = f"{len(trial.epochs)}/{self._max_epochs}"
            if not trial.epochs:
                table.add_row(trial.architecture, str(trial.number), epoch)
                continue
            last = trial.epochs[-1]
            values = (last["accuracy"], trial.get_peak()[0], last["loss"])
            speed = f"{last['images_per_second']:,.0f}"
            table.add_row(trial.architecture, str(trial.number), epoch, *(f"{value:.4f}" for value in values), speed)
        return table


def build_live(
    *,
    total_trials: int,
    max_epochs: int,
    max_hours: float | None,
    console: Console,
    trials: Sequence[Trial] = (),
    elapsed_s: float = 0.0,
) -> PlainLog | LiveView:
    """Build the listener that shows a search: live on a terminal, line by line elsewhere and in CI.

    Args:
        total_trials: Trials that the study will have.
        max_epochs: Epochs of a trial that runs to its end.
        max_hours: Budget of time, if there is one.
        console: Where to print.
        trials: What the record of a resumed study holds.
        elapsed_s: Seconds that a resumed study has been searching before.
    """
    if not console.is_terminal or console.is_dumb_terminal or os.environ.get("CI"):
        return PlainLog(max_epochs=max_epochs, console=console)
    return LiveView(
        total_trials=total_trials,
        max_epochs=max_epochs,
        max_hours=max_hours,
        console=console,
        trials=trials,
        elapsed_s=elapsed_s,
    )


def format_params(params: Mapping[str, Any]) -> str:
    """Return parameters as name=value, floats to four digits."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )


def _build_table(name: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(name, min_width=8)
    for column in columns:
        table.add_column(column, justify="right", min_width=len(column))
    return table


def _name(trial: Trial) -> str:
    return f"trial {trial.number} {trial.architecture}"


def _speed(trial: Trial) -> str:
    return f"{trial.epochs[-1]['images_per_second']:.0f} images/s"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))

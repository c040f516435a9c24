"""Shows a running search: one line per event, or, on a terminal, the view of live.py."""

import os
from collections.abc import Sequence

from rich.console import Console

from search.config.printable import escape, format_params
from search.config.schema import StudyConfig
from search.config.search import SearchConfig
from search.record.trial import Listener, State, Trial
from trainables.config import WITHOUT_GRAPH


class View(Listener):
    """What both views print."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_slow = False

    def on_epoch(self, trial: Trial) -> None:
        """Print once why trials train without CUDA graphs, if they do."""
        reason = str(trial.attributes.get("device", "")).partition(WITHOUT_GRAPH)[2]
        if reason and not self._is_slow:
            self._is_slow = True
            told = "trains without a CUDA graph, more slowly, with the same results"
            self.note(f"{trial.name} {told}: {escape(reason)}")

    def note(self, message: str) -> None:
        """Print a line; a live view stays below it."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)


class PlainLog(View):
    """Prints one line per event."""

    def __init__(self, search: SearchConfig, *, console: Console) -> None:
        super().__init__(console)
        self._search = search

    def on_start(self, trial: Trial) -> None:
        """Print the trial's parameters."""
        begins = f"continues at epoch {len(trial.epochs) + 1}" if trial.epochs else "starts"
        self.note(f"{trial.name} {begins}: {format_params(trial.params)}")

    def on_epoch(self, trial: Trial) -> None:
        """Print the last epoch."""
        super().on_epoch(trial)
        last = trial.epochs[-1]
        epoch = f"epoch {len(trial.epochs)}/{self._search.count_epochs(trial.architecture)}"
        names = dict.fromkeys((trial.metric, "loss"))
        values = ", ".join(f"{name} {last[name]:.4f}" for name in names if name in last)
        self.note(f"{trial.name} {epoch}: {values}{_speed(trial)}")

    def on_end(self, trial: Trial) -> None:
        """Print how the trial ended."""
        count = f"{len(trial.epochs)} epoch{'' if len(trial.epochs) == 1 else 's'}"
        if trial.state is State.FAIL or not trial.epochs:
            result = escape(trial.reason)
        else:
            last, best = trial.list_values()[-1], trial.get_peak()[0]
            result = f"{trial.metric} {last:.4f} (best {best:.4f}){_speed(trial)}"
        self.note(f"{trial.name} {trial.state} after {count}: {result}")


def build_live(
    config: StudyConfig, *, console: Console, trials: Sequence[Trial] = (), elapsed_s: float = 0.0, plain: bool = False
) -> View:
    """Build the listener that shows a search: live on a terminal, line by line elsewhere and in CI.

    Args:
        config: The study.
        console: Prints the view.
        trials: Trials of a resumed study.
        elapsed_s: Seconds of searching before this resumption.
        plain: Whether a terminal gets lines too.
    """
    if plain or not console.is_terminal or console.is_dumb_terminal or os.environ.get("CI"):
        return PlainLog(config.search, console=console)
    from search.listeners.live import LiveView

    return LiveView(config.name, config.search, console=console, trials=trials, elapsed_s=elapsed_s)


def _speed(trial: Trial) -> str:
    """Return the speed of the last epoch behind a comma, if it was measured."""
    last = trial.epochs[-1]
    return f", {last['images_per_second']:.0f} images/s" if "images_per_second" in last else ""

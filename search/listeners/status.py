"""The state of a study as a view for a terminal of any size: pure functions of its trials and its configuration.

The most important lines come first; each part drops its last lines if space is short. At 80x24 it shows the budget,
the best trial of each architecture, the rungs and some running trials.
"""

import dataclasses
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.config.printable import escape, format_params
from search.config.rungs import list_rungs
from search.config.search import SearchConfig
from search.record.trial import State, Trial, find_best
from search.schedulers.scheduler import HALVING
from trainables.config import list_defaults

LONG_S = 100 * 365.25 * 24 * 3600
"""Longest time that is printed, in seconds; a study of a stranger may name any."""

STYLES = {State.COMPLETE: "green", State.PRUNED: "yellow", State.FAIL: "red"}
NUM_RUNNING = 4
"""Number of running trials that are always shown; parameters of the best trials are dropped for them."""
MAX_LINES = 6
"""Largest number of lines for the parameters of one trial."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of a study at one moment; rich prints it."""

    name: str
    search: SearchConfig
    trials: Sequence[Trial]
    elapsed_s: float
    """Seconds of searching, over all resumptions."""
    usage: str = ""
    """Load of the machine, in one line."""
    is_over: bool = False
    """Whether the search has ended, so that no time is left."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw the lines that fit."""
        width, height = options.max_width, options.height or console.height
        running = [trial for trial in self.trials if trial.state is State.RUNNING and not trial.waits]
        best = find_best(self.trials)
        head = self._draw_head(width)
        rungs = self._draw_rungs(width)
        fixed = len(head) + 3 + len(best) + sum(table.row_count + 2 for table in rungs) + 2
        spare = height - 1 - fixed - min(len(running), NUM_RUNNING)
        lines = min(max(spare // max(len(best), 1), 1), MAX_LINES)
        drawn = [_list_params(trial, width, lines) for trial in best.values()]
        yield from head
        yield ""
        yield from _draw_best(self.search.metric, best, drawn)
        for table in rungs:
            yield ""
            yield table
        if running:
            yield ""
            yield self._draw_running(running, height - 1 - fixed - sum(map(len, drawn)))

    def _draw_head(self, width: int) -> list[RenderableType]:
        total = max(self.search.num_trials, len(self.trials))
        states = Counter(trial.state for trial in self.trials)
        ended = len(self.trials) - states[State.RUNNING]
        counts = Text("  ").join(Text(f"{state} {states[state]}", style) for state, style in STYLES.items())
        bar = Table.grid(padding=(0, 2))
        name = Text(self.name, "bold")
        name.truncate(max(12, width - 66), overflow="ellipsis")
        bar.add_row(name, "trials", ProgressBar(total, ended, width=10), f"{ended}/{total}", counts)
        epochs = f"epochs {sum(len(trial.epochs) for trial in self.trials)}"
        most = self.search.max_total_epochs
        max_s = None if self.search.max_hours is None else self.search.max_hours * 3600
        left_s = None if self.is_over else estimate_left_s(self.search, self.trials, self.elapsed_s)
        times = [
            epochs + ("" if most is None else f" of {most}"),
            f"elapsed {format_clock(self.elapsed_s)}" + ("" if max_s is None else f" of {format_clock(max_s)}"),
            *([] if left_s is None else [f"about {format_clock(left_s)} left"]),
        ]
        lines: list[RenderableType] = [bar, Text("   ".join(times), no_wrap=True, overflow="ellipsis")]
        if self.usage:
            lines.append(Text(self.usage, no_wrap=True, overflow="ellipsis"))
        failed = [trial for trial in self.trials if trial.state is State.FAIL]
        if failed:
            reason = escape(" ".join(str(failed[-1].reason).split()))
            last = f"last failure: {failed[-1].name}: {reason}"
            lines.append(Text(last, "red", no_wrap=True, overflow="ellipsis"))
        return lines

    def _draw_rungs(self, width: int) -> list[Table]:
        """Return tables of how many trials reached each rung and were stopped there: one for each length of trials."""
        search = self.search
        if search.scheduler not in HALVING:
            return []
        names: dict[int, list[str]] = {}
        own = [trial for trial in self.trials if not trial.is_foreign]
        for name in sorted({trial.architecture for trial in own}):
            names.setdefault(search.count_epochs(name), []).append(name)
        counts = Counter((trial.architecture, trial.state, len(trial.epochs)) for trial in own)
        tables = [self._draw_group(group, counts, (width - 24) // 11) for group in names.values()]
        return [table for table in tables if len(table.columns) > 2]

    def _draw_group(self, names: Sequence[str], counts: Counter[tuple[str, State, int]], most: int) -> Table:
        """Return the table of architectures whose trials have the same length, with at most so many rungs."""
        search, whole = self.search, self.search.count_epochs(names[0])
        rungs = list_rungs(search.find_first_rung(names[0]), search.reduction_factor, whole)[:most]
        table = _build_table("rung (pruned)", *(f"epoch {rung}" for rung in rungs), f"end {whole}")
        for name in names:
            mine = [(state, epochs, count) for (known, state, epochs), count in counts.items() if known == name]
            cells = []
            for rung in rungs:
                reached = sum(count for _, epochs, count in mine if epochs >= rung)
                cells.append(f"{reached} ({counts[name, State.PRUNED, rung]})" if reached else "")
            complete = sum(count for state, _, count in mine if state is State.COMPLETE)
            table.add_row(name, *cells, str(complete) if complete else "")
        return table

    def _draw_running(self, running: Sequence[Trial], rows: int) -> Table:
        metric = self.search.metric
        names = dict.fromkeys((metric, "best", "loss"))
        table = _build_table("running", "trial", "epoch", *names, "images/s")
        shown = running if len(running) <= max(rows, 1) else running[: max(rows - 1, 1)]
        for trial in shown:
            cells = [str(trial.number), f"{len(trial.epochs)}/{self.search.count_epochs(trial.architecture)}"]
            if trial.epochs:
                last = trial.epochs[-1]
                values = [trial.get_peak()[0] if name == "best" else last.get(name, math.nan) for name in names]
                cells += [*(f"{value:.4f}" for value in values), f"{last.get('images_per_second', 0.0):,.0f}"]
            table.add_row(trial.architecture, *cells)
        if len(shown) < len(running):
            table.add_row(f"and {len(running) - len(shown)} more")
        return table


def estimate_left_s(search: SearchConfig, trials: Sequence[Trial], elapsed_s: float) -> float | None:
    """Return the seconds left at the pace so far, at most those of the budget; None before the first epoch."""
    ended = sum(trial.state is not State.RUNNING for trial in trials)
    left = [(search.num_trials - ended) * elapsed_s / ended] if ended else []
    if search.max_total_epochs is not None and (epochs := sum(len(trial.epochs) for trial in trials)):
        left.append((search.max_total_epochs - epochs) * elapsed_s / epochs)
    if search.max_hours is not None:
        left.append(search.max_hours * 3600 - elapsed_s)
    return max(min(left), 0.0) if left else None


def list_differing(trial: Trial) -> dict[str, Any]:
    """Return the parameters of a trial that differ from the architecture's defaults."""
    defaults = list_defaults(trial.architecture)
    return {name: value for name, value in trial.params.items() if defaults.get(name) != value}


def format_clock(seconds: float) -> str:
    """Return h:mm:ss, or that it is very long."""
    return str(timedelta(seconds=int(seconds))) if seconds < LONG_S else "more than 100 years"


def _draw_best(metric: str, best: Mapping[str, Trial], params: Sequence[Sequence[str]]) -> Iterator[RenderableType]:
    rows = [(trial.number, *trial.get_peak()) for trial in best.values()]
    width = max(10, len(metric) + 1)
    yield Text(f"{'best':<10}{metric:>{width}}{'trial':>8}{'epoch':>8}   differs from the defaults in", "dim")
    for (name, (number, value, epoch)), lines in zip(zip(best, rows, strict=True), params, strict=True):
        yield Text(f"{name:<10}{value:>{width}.4f}{number:>8}{epoch:>8}", no_wrap=True)
        yield from (Text(line, no_wrap=True) for line in lines)


def _list_params(trial: Trial, width: int, lines: int) -> list[str]:
    text = format_params(list_differing(trial)) or "nothing"
    return textwrap.wrap(
        text, width - 2, max_lines=lines, placeholder=" ...", initial_indent="  ", subsequent_indent="  "
    )


def _build_table(name: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(name, min_width=10, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", min_width=len(column), no_wrap=True)
    return table

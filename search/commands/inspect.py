"""Shows a study, running or finished, from its journal; the study is not changed.

python -m search inspect results/NAME [--top 10] [--trial N] [--watch] [--json] [--table PATH]
"""

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from search.commands.terminal import build_console, check_target, explain_errors
from search.config.printable import escape, format_params
from search.listeners.status import Status, estimate_left_s, list_differing
from search.record.lease import Holder
from search.record.reading import StudyReader, read_study
from search.record.trial import State, Trial, find_best, rank_trials
from search.report.ending import describe_ending
from search.report.trials import write_trials
from trainables.errors import InputError
from trainables.names import is_own

INTERVAL_S = 1.0
"""Seconds between two updates of --watch."""


def main(
    place: Annotated[str, typer.Argument(metavar="results/NAME", help="The study's folder, or its URL in a store.")],
    top: Annotated[int, typer.Option(min=0, help="How many of the best trials to list.")] = 10,
    number: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="Show everything that is recorded of a trial.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Update the view until the search ends, or Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole study as JSON, for programs.")] = False,
    table: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the trials, a row each, to a new .csv or .parquet.")
    ] = None,
) -> None:
    """Show the state of a study, also while its search runs."""
    console = build_console(wrap=True)
    with explain_errors(), read_study(place) as reader:
        study = Inspected(reader)
        if table is not None:
            _write_table(study.trials, table)
            console.print(f"{len(study.trials)} trials: {escape(table)}", soft_wrap=True)
        elif number is not None:
            trial = study.find(number)
            print_json(describe_trial(trial)) if as_json else show_trial(trial, console)
        elif as_json:
            print_json(describe_study(study))
        else:
            _watch(study, console) if watch else console.print(study.get_status())
            show_top(study.trials, top, console)
            console.print(f"\n{study.describe_progress()}", soft_wrap=True)


class Inspected:
    """The state of a study, from its journal."""

    def __init__(self, reader: StudyReader) -> None:
        self.config = reader.config
        self.reader = reader
        self.trials: list[Trial] = []
        self.elapsed_s = 0.0
        self.refresh()

    def refresh(self) -> None:
        """Read the facts that were recorded since."""
        self.reader.refresh()
        if (journal := self.reader.journal) is not None:
            self.trials, self.elapsed_s = journal.load(), journal.elapsed_s

    @property
    def is_over(self) -> bool:
        """Whether every trial has ended, and no other will start."""
        ended = sum(trial.state is not State.RUNNING for trial in self.trials)
        is_enough = ended >= self.config.search.num_trials or self.spent is not None
        return is_enough and ended == len(self.trials)

    @property
    def spent(self) -> str | None:
        """Why the search ends before its last trial, or None."""
        journal = self.reader.journal
        return None if journal is None else describe_ending(self.config, self.trials, journal)

    def get_status(self) -> Status:
        """Return the table of its state."""
        return Status(
            name=self.config.name,
            search=self.config.search,
            trials=self.trials,
            elapsed_s=self.elapsed_s,
            is_over=self.is_over,
        )

    def find(self, number: int) -> Trial:
        """Return a trial.

        Raises:
            InputError: If there is no such trial.
        """
        if not 0 <= number < len(self.trials):
            known = f"its trials are 0 to {len(self.trials) - 1}" if self.trials else "it has no trials yet"
            raise InputError(f"{self.config.location} has no trial {number}: {known}")
        return self.trials[number]

    def is_searched_by(self, holder: Holder | None) -> bool:
        """Return whether the holder of the study's lease searches it, and so takes in requests."""
        return holder is not None and holder.is_search and not self.is_over

    def describe_progress(self) -> str:
        """Return in a sentence whether a process searches it, and how to continue it."""
        if (holder := self.reader.find_holder()) is not None:
            return f"{'Being searched' if self.is_searched_by(holder) else 'Being evaluated or uploaded'} by {holder}."
        if self.is_over:
            spent = self.spent
            change = "raise it" if (spent or "").startswith("the budget") else "change that key"
            more = f", because {spent}; to continue, {change} and pass --resume" if spent else ""
            return f"All trials have ended{more}."
        ended = sum(trial.state is not State.RUNNING for trial in self.trials)
        left = max(self.config.search.num_trials, len(self.trials)) - ended
        return f"Not running; {left} trials left. Continue with --resume."


def show_top(trials: Sequence[Trial], count: int, console: Console) -> None:
    """Print the best trials with the parameters that differ from the defaults."""
    ranked = rank_trials(trials)[:count]
    if not ranked:
        return
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("trial", ranked[0].metric, "epoch", "state"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("parameters")
    for trial in ranked:
        value, epoch = trial.get_peak()
        params = f"{trial.architecture} {format_params(list_differing(trial))}"
        table.add_row(str(trial.number), f"{value:.4f}", str(epoch), trial.state.value, params)
    console.print(table)


def show_trial(trial: Trial, console: Console) -> None:
    """Print everything that is known of a trial."""
    reason = f": {escape(trial.reason)}" if trial.reason else ""
    console.print(f"trial {trial.number} {trial.architecture} {trial.state}{reason}", soft_wrap=True)
    if trial.enqueued is not None:
        state = "waits for its start; enqueued with" if trial.waits else "was enqueued with"
        console.print(f"  {state} {escape(trial.enqueued)}", soft_wrap=True)
    for name, value in trial.attributes.items():
        if name != "traceback":
            console.print(f"  {escape(name)} {escape(value)}", soft_wrap=True)
    console.print("\nparameters")
    for name, value in trial.params.items():
        console.print(f"  {format_params({name: value})}", soft_wrap=True)
    if trial.epochs:
        console.print()
        speed = ("train_accuracy", "train_loss", "seconds", "images_per_second")
        wanted = dict.fromkeys(("epoch", trial.metric, "accuracy", "loss", *speed))
        last = trial.epochs[-1]
        names = (
            sorted(last, key="epoch".__ne__)
            if is_own(trial.architecture)
            else [each for each in wanted if each in last]
        )
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in names:
            table.add_column(name.replace("_", " "), justify="right")
        for metrics in trial.epochs:
            table.add_row(*(f"{metrics[name]:.5g}" if name in metrics else "" for name in names))
        console.print(table)
    if traceback := trial.attributes.get("traceback"):
        console.print(f"\n{traceback}", soft_wrap=True)


def describe_study(study: Inspected) -> dict[str, Any]:
    """Return the state of a study as plain values."""
    search, trials, holder = study.config.search, study.trials, study.reader.find_holder()
    return {
        "study": study.config.name,
        "metric": search.metric,
        "goal": "min" if search.sign < 0 else "max",
        "finished": study.is_over,
        "searched_by": str(holder) if study.is_searched_by(holder) else None,
        "num_trials": search.num_trials,
        "states": dict(Counter(trial.state.value for trial in trials)),
        "epochs": sum(len(trial.epochs) for trial in trials),
        "elapsed_s": study.elapsed_s,
        "left_s": 0.0 if study.is_over else estimate_left_s(search, trials, study.elapsed_s),
        "best": {name: trial.number for name, trial in find_best(trials).items()},
        "trials": [describe_trial(trial) for trial in trials],
    }


def describe_trial(trial: Trial) -> dict[str, Any]:
    """Return a trial as plain values."""
    times = {
        name: moment and moment.isoformat() for name, moment in (("started", trial.started), ("ended", trial.ended))
    }
    return dataclasses.asdict(trial) | {"state": trial.state.value, **times}


def print_json(value: dict[str, Any]) -> None:
    """Print plain values as JSON."""
    typer.echo(json.dumps(value, indent=1))


def _watch(study: Inspected, console: Console) -> None:
    """Show the state until every trial has ended or Ctrl-C is pressed."""
    with Live(study.get_status(), console=console, auto_refresh=False) as live:
        try:
            while not study.is_over:
                time.sleep(INTERVAL_S)
                study.refresh()
                live.update(study.get_status(), refresh=True)
        except KeyboardInterrupt:
            return


def _write_table(trials: Sequence[Trial], path: Path) -> None:
    """Write the trials.

    Raises:
        InputError: If the path exists, cannot be written, or has another suffix.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"--table {path}: expected a name that ends in .csv or .parquet")
    check_target(path)
    try:
        write_trials(trials, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None

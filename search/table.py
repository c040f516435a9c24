"""The trials as one row each, for pandas: a pure function of the record."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from search.journal import Trial
from search.provenance import write_file
from trainables.config import list_defaults


def write_trials(trials: Sequence[Trial], path: Path) -> Path:
    """Write a row per trial: how it went, then its parameters, empty where its architecture has none of the name."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    rows = [_describe(trial) | _list_params(trial, names) for trial in trials]
    columns = [*_describe(Trial(number=0, architecture="", params={})), *names]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_file(path, buffer.getvalue().encode())


def _describe(trial: Trial) -> dict[str, Any]:
    """Return how a trial went; what is not known of it is None."""
    values = trial.list_values()
    return {
        "number": trial.number,
        "architecture": trial.architecture,
        "state": trial.state.value,
        "reason": trial.reason,
        "epochs": len(trial.epochs),
        "best_accuracy": max(values, default=None),
        "last_accuracy": values[-1] if values else None,
        **{name: trial.attributes.get(name) for name in ("seconds", "device", "images_per_second")},
    }


def _list_params(trial: Trial, names: Iterable[str]) -> dict[str, Any]:
    """Return a trial's values under the given names: None where its architecture has no such parameter."""
    values = {**list_defaults(trial.architecture), **trial.params}
    return {name: values.get(name) for name in names}

"""The trials as one row each, for pandas: a pure function of the record."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config.printable import defuse, escape
from search.record.trial import Trial
from trainables.config import list_defaults
from trainables.durable import write_file

NUMBERS = {"number": "int64", "epochs": "int64", "best_epoch": "int64"} | dict.fromkeys(
    ("best_accuracy", "last_accuracy", "seconds", "images_per_second"), "float64"
)
"""Columns of numbers with their types in Parquet; the other ones before the parameters are text."""


def write_trials(trials: Sequence[Trial], path: Path) -> Path:
    """Write a row per trial: how it went, then its parameters, empty where its architecture has none of the name.

    Args:
        trials: The rows.
        path: Ends in .parquet, which keeps the types, or else is CSV; replaced in one step if it is there.
    """
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    rows = [_describe(trial) | _list_params(trial, names) for trial in trials]
    columns = {
        name: [row[name] for row in rows] for name in [*_describe(Trial(number=0, architecture="", params={})), *names]
    }
    return write_file(path, _render_parquet(columns, names) if path.suffix == ".parquet" else _render_csv(columns))


def _render_csv(columns: Mapping[str, Sequence[Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(defuse, columns))
    writer.writerows(map(defuse, row) for row in zip(*columns.values(), strict=True))
    return buffer.getvalue().encode()


def _render_parquet(columns: Mapping[str, Sequence[Any]], params: Iterable[str]) -> bytes:
    """Return a Parquet file; the type of a parameter is that of its values."""
    import pyarrow as pa
    from pyarrow import parquet

    known = {name: pa.type_for_alias(NUMBERS.get(name, "string")) for name in columns if name not in params}
    arrays = {escape(name): pa.array(_show(values), known.get(name)) for name, values in columns.items()}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(arrays), buffer)
    return buffer.getvalue()


def _show(values: Sequence[Any]) -> list[Any]:
    """Return a column that Parquet can hold: text that is UTF-8, and text alone where some of it is text."""
    has_text = any(isinstance(value, str) for value in values)
    return [value if value is None or not has_text else escape(value) for value in values]


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
        "best_epoch": trial.get_peak()[1] if values else None,
        "last_accuracy": values[-1] if values else None,
        **{name: trial.attributes.get(name) for name in ("seconds", "device", "images_per_second")},
    }


def _list_params(trial: Trial, names: Iterable[str]) -> dict[str, Any]:
    """Return a trial's values under the given names: None where its architecture has no such parameter."""
    values = {**({} if trial.is_foreign else list_defaults(trial.architecture)), **trial.params}
    return {name: values.get(name) for name in names}

"""The trials as a table, one row each: a pure function of the journal."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from search.config.printable import defuse, escape
from search.record.trial import Trial
from trainables.config import list_defaults
from trainables.durable import write_file

TYPES: dict[str, Any] = {"number": "int64", "epochs": "int64", "best_epoch": "Int64"} | dict.fromkeys(
    ("seconds", "images_per_second"), "float64"
)
"""Types of the columns before the parameters in Parquet; all others are text."""


def write_trials(trials: Sequence[Trial], path: Path) -> Path:
    """Write a row for each trial: its result, then its parameters; those that its architecture lacks are empty.

    A parameter with the name of a result, such as `epochs`, has the column `param_epochs`. A path that ends in .parquet
    gives Parquet, which keeps the types, any other one CSV; it is written in one step.
    """
    import pandas as pd  # imported here, so that no trial waits for it

    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    results = list(_describe(trials[0] if trials else Trial(number=0, architecture="", params={})))
    columns = _name_columns(names, results)
    rows = [_describe(trial) | dict(zip(columns, _list_params(trial, names), strict=True)) for trial in trials]
    is_parquet = path.suffix == ".parquet"
    show = _escape if is_parquet else defuse
    plain = [{show(name): show(value) for name, value in row.items()} for row in rows]
    table = pd.DataFrame(plain, columns=[show(name) for name in (*results, *columns)], dtype=object)
    if not is_parquet:
        return write_file(path, table.to_csv(index=False, lineterminator="\n").encode())
    for name in results:
        table[name] = table[name].astype(
            TYPES.get(name, "float64" if name.startswith(("best_", "last_")) else "string")
        )
    for name in table.columns[len(results) :]:
        kinds = {float if type(value) is int else type(value) for value in table[name] if value is not None}
        is_text = str in kinds or len(kinds) > 1
        table[name] = table[name].astype("string") if is_text else table[name].convert_dtypes()
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return write_file(path, buffer.getvalue())


def _name_columns(names: Sequence[str], results: Sequence[str]) -> list[str]:
    """Return a column for each parameter; a name that is taken gets a prefix."""
    columns: list[str] = []
    for name in names:
        column = name
        while column in (*results, *columns):
            column = f"param_{column}"
        columns.append(column)
    return columns


def _escape(value: Any) -> Any:
    """Return a value whose text is UTF-8; a stranger's text may be something else."""
    return escape(value) if isinstance(value, str) else value


def _describe(trial: Trial) -> dict[str, Any]:
    """Return the result of a trial; unknown values are None."""
    values = trial.list_values()
    return {
        "number": trial.number,
        "architecture": trial.architecture,
        "state": trial.state.value,
        "reason": trial.reason,
        "epochs": len(trial.epochs),
        f"best_{trial.metric}": trial.get_peak()[0] if values else None,
        "best_epoch": trial.get_peak()[1] if values else None,
        f"last_{trial.metric}": values[-1] if values else None,
        **{name: trial.attributes.get(name) for name in ("seconds", "device", "images_per_second")},
    }


def _list_params(trial: Trial, names: Iterable[str]) -> list[Any]:
    """Return a trial's values of the named parameters, None if its architecture lacks one.

    In place of the precision `auto` it has the precision that was used.
    """
    values = {**({} if trial.is_foreign else list_defaults(trial.architecture)), **trial.params}
    if "precision" in trial.attributes:
        values["precision"] = trial.attributes["precision"]
    return [values.get(name) for name in names]

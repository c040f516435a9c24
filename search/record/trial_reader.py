"""Reads one trial of the journal and checks it, because plain Optuna or a stranger may have written there too.

A trial of this search has the attributes `architecture` and `params`. All others are foreign: plain Optuna's `ask`,
`tell` or `add_trial` wrote them. Nothing is known about their training, so they count as failed. A trial that
`enqueue_trial` added waits until the search starts it.
"""

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.record.trial import FOREIGN, State, Trial
from trainables.config import ARCHITECTURES, Value, get_schema
from trainables.errors import InputError
from trainables.names import is_own, shorten
from trainables.parameters import Parameter, is_storable

NOT_OURS = "not of this search: plain Optuna, or another program, wrote it"
ENDED_OUTSIDE = "plain Optuna, or another program, ended it before its first epoch"
EPOCH = "epoch:"
"""Prefix of the system attribute that holds an epoch's metrics."""
POINT = "fixed_params"
"""System attribute in which Optuna's `enqueue_trial` stores the point."""
REQUEST = "request"
"""System attribute with the name of the request that asked for the point."""
KINDS: dict[str, tuple[type, ...]] = {
    "reason": (str, type(None)),
    "traceback": (str,),
    **dict.fromkeys(("device", "precision"), (str,)),
    **dict.fromkeys(("seconds", "images_per_second", "peak_memory_bytes"), (int, float)),
}
"""Types of the attributes of a trial that this project computes with or prints."""


def read_trial(frozen: FrozenTrial, where: str, metric: str, sign: int) -> tuple[Trial, list[dict[str, Any]]]:
    """Return a trial, and the rows of its epochs as `Journal.add_epoch` wrote them.

    Args:
        frozen: As Optuna's storage returns it.
        where: Names the trial in messages.
        metric: Validation metric of the study.
        sign: 1 if larger values of it are better, -1 if smaller ones are.

    Raises:
        InputError: If the trial is damaged.
    """
    for mapping in (frozen.user_attrs, frozen.system_attrs):
        _require(isinstance(mapping, dict), f"the attributes of {where} are damaged")
    waits, point = frozen.state is TrialState.WAITING, frozen.system_attrs.get(POINT)
    trial = Trial(
        number=frozen.number,
        architecture=FOREIGN,
        params={},
        state=State.RUNNING if waits else State.FAIL,
        enqueued=point if isinstance(point, dict) else {} if waits else None,
        waits=waits,
        metric=metric,
        sign=sign,
        started=frozen.datetime_start,
        ended=frozen.datetime_complete,
    )
    if not _is_own(frozen):
        trial.reason = None if waits else str(frozen.user_attrs.get("reason", NOT_OURS))
        return trial, []
    attributes = _read_attributes(frozen, where)
    trial.architecture, trial.params = attributes.pop("architecture"), attributes.pop("params")
    trial.reason, trial.attributes = attributes.pop("reason", None), attributes
    trial.noted = {
        key: value for key, value in frozen.system_attrs.items() if not key.startswith((EPOCH, POINT, REQUEST))
    }
    rows = list_rows(frozen, where, metric)
    trial.epochs = [dict(row["metrics"]) for row in rows]
    if rows:
        attributes |= {name: rows[-1][name] for name in ("device", "precision") if name in rows[-1]}
    if frozen.state in (TrialState.COMPLETE, TrialState.PRUNED) and not rows:
        trial.reason = ENDED_OUTSIDE
    elif not waits:
        trial.state = State[frozen.state.name]
    return trial, rows


def read_changes(changes: Any, where: str) -> list[dict[str, Any]]:
    """Return `time` and `differences` of each recorded change of a study.

    Raises:
        InputError: If they are damaged.
    """
    if not isinstance(changes, list) or not all(map(_is_change, changes)):
        raise InputError(f"the changes in {where} are damaged: restore the journal from a copy")
    return list(changes)


def list_rows(frozen: FrozenTrial, where: str, metric: str) -> list[dict[str, Any]]:
    """Return the rows of the epochs that count, in order; no rows for a trial that is foreign or waits.

    Raises:
        InputError: If one is missing or damaged.
    """
    if not _is_own(frozen) or frozen.state is TrialState.WAITING:
        return []
    rows = {
        epoch: row
        for epoch in frozen.intermediate_values  # to which plain Optuna's `report` adds no row
        if type(epoch) is int and (row := frozen.system_attrs.get(f"{EPOCH}{epoch}")) is not None
    }
    recorded = sorted(rows)
    _require(recorded == list(range(1, len(recorded) + 1)), f"{where} lacks an epoch")
    for epoch in recorded:
        _require(_is_row(rows[epoch], epoch, metric), f"epoch {epoch} of {where} is damaged")
    return [dict(rows[epoch]) for epoch in recorded]


def read_point(point: Any, searched: Sequence[str]) -> tuple[str, dict[str, Value]]:
    """Return architecture and parameters of a point such as {"cnn.learning_rate": 0.001}.

    Args:
        point: As plain Optuna wrote it.
        searched: Names of the study's architectures.

    Raises:
        InputError: If its names are not those of one architecture's parameters.
    """
    full = {shorten(name): name for name in (*ARCHITECTURES, *searched)}
    names = list(point) if isinstance(point, Mapping) else []
    architecture = str(names[0]).partition(".")[0] if names else ""
    if architecture not in full or not all(str(name).startswith(f"{architecture}.") for name in names):
        known = " or ".join(full)
        raise InputError(f"expected parameters of one architecture ({known}), such as cnn.learning_rate, not {point!r}")
    return full[architecture], {str(name).partition(".")[2]: value for name, value in point.items()}


def _is_change(change: Any) -> bool:
    return (
        isinstance(change, dict)
        and isinstance(change.get("time"), str)
        and isinstance(change.get("differences"), list)
        and all(isinstance(each, str) for each in change["differences"])
    )


def _is_own(frozen: FrozenTrial) -> bool:
    """Return whether this search wrote a trial."""
    return {"architecture", "params"} <= frozen.user_attrs.keys()


def _read_attributes(frozen: FrozenTrial, where: str) -> dict[str, Any]:
    """Return the user attributes of a trial of this search, after checking those with which this project computes."""
    found = dict(frozen.user_attrs)
    architecture, params = found["architecture"], found["params"]
    is_known = isinstance(architecture, str) and (architecture in ARCHITECTURES or is_own(architecture))
    _require(is_known, f"{where} has the unknown architecture {architecture!r}")
    _require(isinstance(params, dict), f"{where} has no parameters")
    schema = get_schema(architecture)
    for name, value in params.items():
        _require(_is_value(value, schema.get(name)), f"{where} has {name} = {value!r}")
    for name, kinds in KINDS.items():
        if name in found:
            is_sound = _is_number(found[name]) if float in kinds else isinstance(found[name], kinds)
            _require(is_sound, f"{where} has {name} = {found[name]!r}")
    return found


def _is_row(row: Any, epoch: int, metric: str) -> bool:
    """Return whether a row has what `Journal.add_epoch` writes."""
    if not isinstance(row, dict) or not isinstance(row.get("metrics"), dict):
        return False
    metrics, order = row["metrics"], row.get("order")
    return (
        isinstance(row.get("device"), str)
        and row.get("precision", "float32") in ("float32", "bfloat16")
        and isinstance(order, int)
        and 0 <= order < 2**53
        and _is_number(row.get("elapsed_s"))
        and 0 <= row["elapsed_s"] < 1e12
        and all(map(_is_number, metrics.values()))
        and metric in metrics
        and metrics.get("epoch", epoch) == epoch
    )


def _is_value(value: Any, parameter: Parameter | None) -> bool:
    """Return whether a parameter may have a value; `parameter` is None if it is no longer known."""
    if isinstance(value, int | float) and not isinstance(value, bool) and not _is_number(value):
        return False
    if parameter is None:
        return isinstance(value, bool | int | float | str)
    options = typing.get_args(parameter.hint)  # of a Literal
    kinds = set(map(type, options)) or {parameter.hint}
    return type(value) in kinds or (type(value) is int and float in kinds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and is_storable(value)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise InputError(f"{problem}: restore the journal from a copy, or use another --name")

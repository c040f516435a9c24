"""Conditions: a spec with `when` is searched only where other parameters have certain values."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from trainables.errors import InputError

T = TypeVar("T")
Conditions = dict[str, Mapping[str, Sequence[Any]]]
"""Parameter -> other parameter -> values of the other one with which the first one is searched."""


def list_conditions(specs: Mapping[str, Any]) -> Conditions:
    """Return the conditions of the parameters that have one; each parameter follows those that it depends on.

    Raises:
        InputError: If parameters depend on each other in a circle.
    """
    waiting = {name: spec.when for name, spec in sorted(specs.items()) if getattr(spec, "when", None)}
    found: Conditions = {}
    while waiting:
        ready = [name for name, when in waiting.items() if not when.keys() & waiting.keys()]
        if not ready:
            raise InputError(f"the conditions of {', '.join(waiting)} form a circle: remove one `when`")
        found |= {name: waiting.pop(name) for name in ready}
    return found


def is_active(when: Mapping[str, Sequence[Any]], params: Mapping[str, Any]) -> bool:
    """Return whether a condition holds; it does not if it names a parameter without a value in this trial."""
    return all(name in params and params[name] in values for name, values in when.items())


def drop_inactive(conditions: Conditions, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without those whose condition does not hold: training uses their defaults."""
    kept = dict(params)
    for name, when in conditions.items():
        if not is_active(when, kept):
            kept.pop(name, None)
    return kept


def select(distributions: Mapping[str, T], conditions: Conditions, params: Mapping[str, Any]) -> dict[str, T]:
    """Return the distributions of one trial, without those of parameters whose condition does not hold."""
    return {name: each for name, each in distributions.items() if name in params or name not in conditions}


def add_deciding(names: set[str], conditions: Conditions) -> set[str]:
    """Return parameters together with all others on which their conditions depend."""
    found = set(names)
    for name in reversed(conditions):
        found |= conditions[name].keys() if name in found else set()
    return found

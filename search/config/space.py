"""The space: the values that each parameter may have, and their form as Optuna's distributions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.config.conditions import drop_inactive, list_conditions
from search.config.printable import escape
from trainables.config import Value, get_schema, list_defaults
from trainables.names import shorten


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value, above low."""
    _: dataclasses.KW_ONLY
    log: bool = False
    """Whether values are drawn on a logarithmic scale; low must be above 0 and step null."""
    step: int | float | None = None
    """Distance between neighbouring values, at most high - low; null is 1 for integers, any distance for floats."""
    when: Mapping[str, tuple[Value, ...]] | None = None
    """Values of other parameters with which this one is searched; else it has its default. null is no condition."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    choice: tuple[Value, ...]
    """The values, distinct, at least one."""
    _: dataclasses.KW_ONLY
    when: Mapping[str, tuple[Value, ...]] | None = None
    """Condition, as in a range."""


Spec = Range | Choice | bool | int | float | str
"""A Range or Choice is searched; a bare value is fixed."""

Space = Mapping[str, Mapping[str, Spec]]
"""Architecture -> parameter -> spec. `shared` applies to every architecture that has no spec of the parameter."""


def list_specs(space: Space, architecture: str) -> dict[str, Spec]:
    """Return the spec of each parameter of one architecture; the default for those that the space leaves out."""
    return list_defaults(architecture) | dict(space.get("shared", {})) | dict(space.get(shorten(architecture), {}))


def build_distributions(specs: Mapping[str, Spec], architecture: str) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of the searched parameters, sorted by name; those with a condition come last."""
    conditional = list(list_conditions(specs))
    return {
        name: _build_distribution(spec, is_int=get_hint(architecture, name) is int)
        for name in [*sorted(specs.keys() - set(conditional)), *conditional]
        if isinstance(spec := specs[name], Range | Choice)
    }


def contains(spec: Spec, value: Value) -> bool:
    """Return whether a parameter may take a value."""
    if isinstance(spec, Choice):
        return any(type(value) is type(option) and value == option for option in spec.choice)
    if not isinstance(spec, Range):
        return type(value) is type(spec) and value == spec
    if isinstance(value, bool | str) or not spec.low <= value <= spec.high:
        return False
    steps = 0.0 if spec.step is None else (value - spec.low) / spec.step
    return math.isclose(steps, round(steps), abs_tol=1e-9)


def find_outside(specs: Mapping[str, Spec], architecture: str, params: Mapping[str, Value]) -> str | None:
    """Return the key of the first spec that parameters contradict, or None if they are a point of the space.

    Where the condition of a parameter does not hold, it must have its default or be left out.
    """
    defaults = list_defaults(architecture)
    active = drop_inactive(list_conditions(specs), dict.fromkeys(specs) | dict(params))
    for name, spec in specs.items():
        if name not in active and not contains(defaults[name], params.get(name, defaults[name])):
            return f"{name}.when"
        if name in active and not (name in params and contains(spec, params[name])):
            return name
    return None


def describe(spec: Spec) -> str:
    """Return a spec in words, such as `16 | 32`, `0.1 to 1, log`, or `= adam` for a fixed value."""
    if isinstance(spec, Choice):
        return " | ".join(map(escape, spec.choice))
    if not isinstance(spec, Range):
        return f"= {escape(spec)}"
    step = f", step {spec.step:g}" if spec.step else ""
    return f"{spec.low:g} to {spec.high:g}{', log' if spec.log else ''}{step}"


def pick(spec: Spec) -> Value:
    """Return one value that a parameter may have: its first choice, its low end, or the fixed one."""
    return spec.choice[0] if isinstance(spec, Choice) else spec.low if isinstance(spec, Range) else spec


def get_hint(architecture: str, name: str) -> Any:
    """Return the type that a dataclass or a function declares for a parameter; None if that was not imported."""
    schema = get_schema(architecture)
    return schema[name].hint if schema else None


def _build_distribution(spec: Range | Choice, *, is_int: bool) -> BaseDistribution:
    if isinstance(spec, Choice):
        return CategoricalDistribution(spec.choice)
    if is_int:
        return IntDistribution(int(spec.low), int(spec.high), log=spec.log, step=int(spec.step or 1))
    return FloatDistribution(spec.low, spec.high, log=spec.log, step=spec.step)

"""The space: what each parameter may be, its checks, and its form as Optuna's distributions."""

import dataclasses
import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from trainables.config import (
    ARCHITECTURES,
    RUN_FIELDS,
    TrainConfig,
    Value,
    build_train_config,
    get_architecture,
    get_schema,
    is_function,
    list_defaults,
    list_rules,
    list_without_effect,
)
from trainables.errors import InputError
from trainables.names import is_unknown, shorten
from trainables.parameters import list_parameters


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


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    choice: tuple[Value, ...]
    """The values, distinct, at least one."""


Spec = Range | Choice | bool | int | float | str
"""A Range or Choice is searched; a bare value is fixed."""

Space = Mapping[str, Mapping[str, Spec]]
"""Architecture -> parameter -> spec. `shared` applies to every architecture that has no spec of the parameter."""


MAX_CHECKED = 4096
"""Integers of a range that are checked one by one, at most."""
MAX_CORNERS = 100_000
"""Combinations of choices and ends of ranges that are checked, at most; that takes a second or two."""


def list_specs(space: Space, architecture: str) -> dict[str, Spec]:
    """Return what each parameter of one architecture may be; the default for those that the space leaves out."""
    return list_defaults(architecture) | dict(space.get("shared", {})) | dict(space.get(shorten(architecture), {}))


def build_distributions(specs: Mapping[str, Spec], architecture: str) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of the searched parameters, sorted by name."""
    return {
        name: _build_distribution(
            spec, is_int=(_get_hint(architecture, name) or type(getattr(spec, "low", None))) is int
        )
        for name, spec in sorted(specs.items())
        if isinstance(spec, Range | Choice)
    }


def count_points(space: Space, architecture: str) -> int | None:
    """Return the number of configurations of one architecture; None if a parameter is continuous.

    Configurations that differ only in parameters without effect count once.
    """
    specs = list_specs(space, architecture)
    distributions = build_distributions(specs, architecture)
    counts = {name: _count_values(each) for name, each in distributions.items()}
    deciding = sorted({name for name, _ in list_rules(architecture)})
    options = [_list_values(distributions[name]) if name in distributions else [specs[name]] for name in deciding]
    total = 0
    for values in itertools.product(*options):
        excluded = {*deciding, *list_without_effect(architecture, dict(zip(deciding, values, strict=True)))}
        found = [count for name, count in counts.items() if name not in excluded]
        known = [count for count in found if count is not None]
        if len(known) < len(found):
            return None
        total += math.prod(known)
    return total


def check_space(space: Space, architectures: Sequence[str]) -> None:
    """Check names and types, and that a training can be built from every corner of the space.

    Raises:
        InputError: If a check fails; the message names the key in the study's file.
    """
    has_function = any(map(is_function, architectures))
    names = {shorten(name): name for name in (*(() if has_function else ARCHITECTURES), *architectures)}
    for section, specs in space.items():
        if section not in names and (has_function or section != "shared"):
            shared = "" if has_function else "`shared` or "
            raise InputError(f"space.{section}: expected {shared}one of {', '.join(names)}")
        allowed = set(list_defaults(names[section]) if section in names else list_parameters(TrainConfig, RUN_FIELDS))
        if (unknown := sorted(set(specs) - allowed)) and not is_unknown(names.get(section, section)):
            raise InputError(f"space.{section}.{unknown[0]}: unknown parameter; known: {', '.join(sorted(allowed))}")
    for architecture in (name for name in architectures if not is_unknown(name)):
        _check_corners(space, architecture)


def check_params(params: Mapping[str, Value], architecture: str, where: str) -> None:
    """Check the names and types of flat parameters.

    Raises:
        InputError: If a name is unknown, or a value has the wrong type.
    """
    known = list_defaults(architecture)
    for name, value in params.items():
        if name not in known:
            raise InputError(f"{where}.{name}: unknown parameter; known: {', '.join(known)}")
        _check_type(value, _get_hint(architecture, name), f"{where}.{name}")


def contains(spec: Spec, value: Value) -> bool:
    """Answer whether a parameter may take a value."""
    if isinstance(spec, Choice):
        return any(type(value) is type(option) and value == option for option in spec.choice)
    if not isinstance(spec, Range):
        return type(value) is type(spec) and value == spec
    if isinstance(value, bool | str) or not spec.low <= value <= spec.high:
        return False
    steps = 0.0 if spec.step is None else (value - spec.low) / spec.step
    return math.isclose(steps, round(steps), abs_tol=1e-9)


def pick(spec: Spec) -> Value:
    """Return one value that a parameter may have: its first choice, its low end, or the fixed one."""
    return spec.choice[0] if isinstance(spec, Choice) else spec.low if isinstance(spec, Range) else spec


def check_point(specs: Mapping[str, Spec], architecture: str, params: Mapping[str, Value]) -> None:
    """Check that parameters, not necessarily all, are a point of the space.

    Raises:
        InputError: If a name is unknown, or a value has the wrong type, is outside the space, or cannot be built.
    """
    for name, value in params.items():
        if name not in specs:
            raise InputError(f"{architecture} has no parameter {name}; known: {', '.join(specs)}")
        _check_type(value, _get_hint(architecture, name), f"{architecture}.{name}")
        if not contains(specs[name], value):
            raise InputError(f"{architecture}.{name} = {value!r} is outside the space")
    if not (is_function(architecture) or is_unknown(architecture)):
        build_train_config(architecture, params, epochs=1, seed=0)


def _check_corners(space: Space, architecture: str) -> None:
    """Check the smallest and largest values of the model's parameters and of the batch size in all combinations.

    The other parameters of a training do not depend on each other, so they are checked one by one.
    """
    model = set(list_parameters(get_architecture(architecture)))
    corners: dict[str, list[Value]] = {}
    for name, spec in list_specs(space, architecture).items():
        section = shorten(architecture) if name in space.get(shorten(architecture), {}) else "shared"
        where = f"space.{section}.{name}"
        corners[name] = _list_extremes(spec, where)
        hint = _get_hint(architecture, name)
        for value in corners[name]:
            _check_type(value, hint, where)
        if isinstance(spec, Range):
            _check_range(spec, hint, where)
        if isinstance(spec, Range) and hint is int and name in model and not is_function(architecture):
            # such as an even kernel_size
            for value in range(int(spec.low), int(spec.high) + 1, int(spec.step or 1))[:MAX_CHECKED]:
                _build({name: value}, architecture)
    if is_function(architecture):  # nothing is built of it before it runs
        return
    together = model | {"batch_size"}
    groups = [[name for name in corners if name in together], *([name] for name in corners if name not in together)]
    for names in groups:
        for values in itertools.islice(itertools.product(*(corners[name] for name in names)), MAX_CORNERS):
            _build(dict(zip(names, values, strict=True)), architecture)


def _build(params: Mapping[str, Value], architecture: str) -> None:
    try:
        build_train_config(architecture, params, epochs=1, seed=0)
    except InputError as error:
        raise InputError(f"space.{architecture} has a corner that cannot be built: {error}") from None


def _check_range(spec: Range, hint: Any, where: str) -> None:
    if hint not in (int, float):
        raise InputError(f"{where}: expected a value or a choice; this parameter cannot be a range")
    if spec.step is not None:
        _check_type(spec.step, hint, f"{where}.step")


def _list_extremes(spec: Spec, where: str) -> list[Value]:
    if isinstance(spec, Choice):
        if not spec.choice or len({(type(value), value) for value in spec.choice}) < len(spec.choice):
            raise InputError(f"{where}: expected distinct choices, at least one")
        return list(spec.choice)
    if not isinstance(spec, Range):
        return [spec]
    if not (math.isfinite(spec.low) and math.isfinite(spec.high) and spec.low < spec.high):
        raise InputError(f"{where}: expected low below high, both finite, not {spec.low} and {spec.high}")
    if spec.log and (spec.low <= 0 or spec.step is not None):
        raise InputError(f"{where}: log needs low above 0 and no step")
    if spec.step is not None and not 0 < spec.step <= spec.high - spec.low:
        raise InputError(f"{where}: expected a step above 0, at most high - low, not {spec.step}")
    return [spec.low, spec.high]


def _get_hint(architecture: str, name: str) -> Any:
    """Return the type of a parameter, as its dataclass or function declares it; None if that was not imported."""
    schema = get_schema(architecture)
    return schema[name].hint if schema else None


def _check_type(value: Value, hint: Any, where: str) -> None:
    if typing.get_origin(hint) is Literal:
        options = typing.get_args(hint)
        if not any(type(value) is type(option) and value == option for option in options):
            raise InputError(f"{where} = {value!r}: expected one of {', '.join(map(str, options))}")
    elif type(value) is not hint and not (hint is float and type(value) is int):
        raise InputError(f"{where} = {value!r}: expected {hint.__name__}, not {type(value).__name__}")


def _count_values(distribution: BaseDistribution) -> int | None:
    """Return the number of a distribution's values, steps counted in decimals as in Optuna; None if continuous."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return len(set(choices))  # 1 and 1.0 are the same value of a float
        case IntDistribution(low=low, high=high, step=step):
            return (high - low) // step + 1
        case FloatDistribution(low=low, high=high, step=float() | int() as step):
            return int((Decimal(str(high)) - Decimal(str(low))) // Decimal(str(step))) + 1
    return None


def _list_values(distribution: BaseDistribution) -> Sequence[Any]:
    """Return the values of a choice or of a range of integers."""
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices


def _build_distribution(spec: Range | Choice, *, is_int: bool) -> BaseDistribution:
    if isinstance(spec, Choice):
        return CategoricalDistribution(spec.choice)
    if is_int:
        return IntDistribution(int(spec.low), int(spec.high), log=spec.log, step=int(spec.step or 1))
    return FloatDistribution(spec.low, spec.high, log=spec.log, step=spec.step)

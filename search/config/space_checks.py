"""Checks of the space: names, types, and that a training can be built from every corner."""

import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from search.config.conditions import add_deciding, drop_inactive, list_conditions
from search.config.space import Choice, Range, Space, Spec, contains, describe, get_hint, list_specs
from trainables.config import (
    ARCHITECTURES,
    IMAGE_SIZE,
    RUN_FIELDS,
    TrainConfig,
    Value,
    build_train_config,
    get_architecture,
    get_schema,
    is_function,
    list_defaults,
    list_rules,
)
from trainables.errors import InputError
from trainables.names import is_unknown, shorten
from trainables.parameters import LARGEST, is_storable, list_parameters

MAX_CHECKED = 4096
"""Integers of a range that are checked one by one, at most."""
MAX_CORNERS = 100_000
"""Combinations of choices and ends of ranges that are checked, at most; checking them takes a second or two."""


def check_space(space: Space, architectures: Sequence[str], size: int = IMAGE_SIZE) -> None:
    """Check names and types, and that a training on images of a size can be built from every corner of the space.

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
        _check_rules(architecture, size)
        _check_conditions(list_specs(space, architecture), architecture)
        _check_corners(space, architecture, size)


def _check_rules(architecture: str, size: int) -> None:
    """Check that `without_effect` of a class of the user names its parameters."""
    try:
        named = {each for (other, _), names in list_rules(architecture, size).items() for each in (other, *names)}
    except Exception as error:
        raise InputError(
            f"{architecture}: without_effect({size}) fails ({type(error).__name__}: {error}); it is a static method "
            "that returns {(parameter, value): (parameter, ...)}"
        ) from error
    if unknown := sorted(named - set(get_schema(architecture))):
        raise InputError(f"{architecture}: without_effect names {unknown[0]}, which is no parameter of it")


def check_params(params: Mapping[str, Value], architecture: str, where: str) -> None:
    """Check the names and types of flat parameters.

    Raises:
        InputError: If a name is unknown, or a value has the wrong type.
    """
    known = list_defaults(architecture)
    for name, value in params.items():
        if name not in known:
            raise InputError(f"{where}.{name}: unknown parameter; known: {', '.join(known)}")
        _check_type(value, get_hint(architecture, name), f"{where}.{name}")


def check_point(specs: Mapping[str, Spec], architecture: str, params: Mapping[str, Value], size: int) -> None:
    """Check that parameters, all or some of them, are in the space.

    Raises:
        InputError: If a name is unknown, or a value has the wrong type, is outside the space, or cannot be built.
    """
    for name, value in params.items():
        if name not in specs:
            raise InputError(f"{architecture} has no parameter {name}; known: {', '.join(specs)}")
        _check_type(value, get_hint(architecture, name), f"{architecture}.{name}")
        if not contains(specs[name], value):
            raise InputError(f"{architecture}.{name} = {value!r} is outside the space ({describe(specs[name])})")
    if not (is_function(architecture) or is_unknown(architecture)):
        build_train_config(architecture, params, epochs=1, seed=0, size=size)


def _check_corners(space: Space, architecture: str, size: int) -> None:
    """Check the smallest and largest values of the model's parameters and of the batch size in all combinations.

    The other parameters of a training do not depend on each other, so they are checked one by one.
    """
    model = set(list_parameters(get_architecture(architecture)))
    specs = list_specs(space, architecture)
    corners: dict[str, list[Value]] = {}
    for name, spec in specs.items():
        section = shorten(architecture) if name in space.get(shorten(architecture), {}) else "shared"
        where = f"space.{section}.{name}"
        corners[name] = _list_extremes(spec, where)
        hint = get_hint(architecture, name)
        for value in corners[name]:
            _check_type(value, hint, where)
        if isinstance(spec, Range):
            _check_range(spec, hint, where)
        if isinstance(spec, Range) and hint is int and name in model and not is_function(architecture):
            # such as an even kernel_size
            for value in range(int(spec.low), int(spec.high) + 1, int(spec.step or 1))[:MAX_CHECKED]:
                _build({name: value}, architecture, size)
    if is_function(architecture):  # a function builds nothing before it runs
        return
    _check_together(corners, specs, model | {"batch_size"}, architecture, size)


def _check_together(
    corners: Mapping[str, Sequence[Value]], specs: Mapping[str, Spec], together: set[str], architecture: str, size: int
) -> None:
    """Build the combinations of some parameters' values, and each other value by itself."""
    conditions = list_conditions(specs)
    options = {name: dict.fromkeys(values) for name, values in corners.items()}
    for when in conditions.values():
        for other, values in when.items():
            options[other] |= dict.fromkeys(value for value in values if contains(specs[other], value))
    for group in (together, *({name} for name in corners if name not in together)):
        names = [name for name in corners if name in add_deciding(group, conditions)]
        for values in itertools.islice(itertools.product(*(options[name] for name in names)), MAX_CORNERS):
            _build(drop_inactive(conditions, dict(zip(names, values, strict=True))), architecture, size)


def _check_conditions(specs: Mapping[str, Spec], architecture: str) -> None:
    """Check the names and values in the conditions of all parameters."""
    for name, when in list_conditions(specs).items():
        for other, values in when.items():
            where = f"space.{shorten(architecture)}.{name}.when.{other}"
            if other not in specs:
                raise InputError(f"{where}: unknown parameter; known: {', '.join(sorted(specs))}")
            hint, spec = get_hint(architecture, other), specs[other]
            if not values or (isinstance(spec, Range) and hint is not int):
                raise InputError(f"{where}: expected one or more values of a parameter with choices or whole numbers")
            for value in values:
                _check_type(value, hint, where)
                if isinstance(spec, Range | Choice) and not contains(spec, value):
                    raise InputError(f"{where} = {value!r}: {other} never has this value in the space")


def _build(params: Mapping[str, Value], architecture: str, size: int) -> None:
    try:
        build_train_config(architecture, params, epochs=1, seed=0, size=size)
    except InputError as error:
        raise InputError(f"space.{shorten(architecture)} has a corner that cannot be built: {error}") from None


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


def _check_type(value: Value, hint: Any, where: str) -> None:
    if isinstance(value, int | float) and not is_storable(value):
        raise InputError(
            f"{where} = {value!r}: expected a finite number up to {LARGEST:g}, or a whole number up to 2**53"
        )
    if hint is None:  # of code that was not imported
        return
    if typing.get_origin(hint) is Literal:
        options = typing.get_args(hint)
        if not any(type(value) is type(option) and value == option for option in options):
            raise InputError(f"{where} = {value!r}: expected one of {', '.join(map(str, options))}")
    elif type(value) is not hint and not (hint is float and type(value) is int):
        raise InputError(f"{where} = {value!r}: expected {hint.__name__}, not {type(value).__name__}")

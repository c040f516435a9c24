"""The signature of a training is its schema: the names, types and defaults of its parameters."""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any, Literal

from trainables.errors import InputError

TYPES = (bool, int, float, str)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a dataclass or of a function."""

    name: str
    hint: Any
    """One of TYPES, or a Literal."""
    default: bool | int | float | str
    help: str = ""


def list_parameters(taker: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the parameters of a dataclass, or of a training function without its first, `run`.

    Raises:
        InputError: If one has no type hint of the known ones, or no default.
    """
    known = list(inspect.signature(taker).parameters.values())[0 if inspect.isclass(taker) else 1 :]
    hints = typing.get_type_hints(taker)
    found = {}
    for each in known:
        hint = hints.get(each.name)
        if each.default is inspect.Parameter.empty or not (hint in TYPES or typing.get_origin(hint) is Literal):
            raise InputError(
                f"{taker.__qualname__}: give its parameter {each.name} a type (bool, int, float, str or Literal) and a "
                f"default, such as `{each.name}: float = 0.1`"
            )
        found[each.name] = Parameter(name=each.name, hint=hint, default=each.default)
    return found

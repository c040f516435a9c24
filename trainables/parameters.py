"""The signature of a training is its schema: the names, types and defaults of its parameters."""

import ast
import dataclasses
import functools
import inspect
import textwrap
import typing
from collections.abc import Mapping
from typing import Any, Literal

from trainables.errors import InputError

TYPES = (bool, int, float, str)
LARGEST = 1e300
"""Largest float in the record of a study; its largest whole number is 2**53."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a dataclass or of a function."""

    hint: Any
    """One of TYPES, or a Literal."""
    default: bool | int | float | str


@functools.cache
def list_parameters(taker: Any, skip: tuple[str, ...] = ()) -> Mapping[str, Parameter]:
    """Return the parameters of a dataclass, or of a training function without its first, `run`, by name.

    Args:
        taker: The dataclass or the function.
        skip: Names to leave out.

    Raises:
        InputError: If a parameter has none of the known types, or no default of its type.
    """
    known = list(inspect.signature(taker).parameters.values())[0 if inspect.isclass(taker) else 1 :]
    try:
        hints = typing.get_type_hints(taker)
    except (NameError, TypeError) as error:
        raise InputError(f"{taker.__qualname__}: a type of its parameters cannot be resolved ({error})") from error
    found = {}
    for each in known:
        if each.name in skip:
            continue
        hint = hints.get(each.name)
        options = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        if not ((hint in TYPES and type(each.default) in (hint, {float: int}.get(hint))) or each.default in options):
            raise InputError(
                f"{taker.__qualname__}: give its parameter {each.name} a type (bool, int, float, str or Literal) and a "
                f"default of that type, such as `{each.name}: float = 0.1`"
            )
        found[each.name] = Parameter(hint=hint, default=each.default)
    return found


def is_storable(number: float) -> bool:
    """Return whether the record of a study may have a number; NaN and infinities are refused too."""
    return abs(number) <= (LARGEST if isinstance(number, float) else 2**53)


def read_sentences(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, in one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }

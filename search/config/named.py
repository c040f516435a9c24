"""Builds objects of classes that a study names as `module:Name`."""

import inspect
from collections.abc import Mapping
from typing import Any

from trainables.errors import InputError
from trainables.names import resolve

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Kinds of parameters, *args and **kwargs, that need no argument."""


def build(name: str, offered: Mapping[str, Any], where: str) -> Any:
    """Return an object of the user's class, built from those of the offered arguments that its constructor names.

    Args:
        name: `module:Name` of the class.
        offered: Arguments by name.
        where: Key of the study's file, for the message.

    Raises:
        InputError: If there is no such class, its constructor requires an argument that is not offered, or it fails.
    """
    kind = resolve(name, {}, where)
    if not isinstance(kind, type):
        raise InputError(f"{where} = {name!r} is not a class")
    try:
        parameters = inspect.signature(kind).parameters.values()
        required = {each.name for each in parameters if each.default is each.empty and each.kind not in VARIABLE}
        if missing := sorted(required - offered.keys()):
            has = ", ".join(offered)
            raise InputError(
                f"{where} = {name!r} needs {', '.join(missing)}, a study has {has}: derive a class without"
            )
        return kind(**{each.name: offered[each.name] for each in parameters if each.name in offered})
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{where} = {name!r} cannot be built ({type(error).__name__}: {error})") from error

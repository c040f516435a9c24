"""Finds what a name in a study's file means: one of ours, or `module:Name`, which is the user's own code."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from trainables.errors import InputError

IMPORTED: dict[str, Any] = {}
"""Name `module:Name` -> code of the user, imported only with consent; a reader of a study imports none."""


def is_own(name: str) -> bool:
    """Return whether a name means code of the user, as module:Name does."""
    module, _, attribute = name.partition(":")
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def is_unknown(name: str) -> bool:
    """Return whether a name means code of the user that this process did not import."""
    return is_own(name) and name not in IMPORTED


def shorten(name: str) -> str:
    """Return the part of a name that files, tables and keys of a study use: Vit for my_vit:Vit."""
    return name.rpartition(":")[2]


def import_own(name: str, folder: str | None, where: str) -> Any:
    """Import code of the user, keep it under its name, and return it. This needs the user's consent.

    Args:
        name: `module:Name`.
        folder: Folder of the user's modules, searched after all others, so that they replace none of them.
        where: Key of the study's file, for the message.

    Raises:
        InputError: If it cannot be imported.
    """
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)
    if name not in IMPORTED:
        module, _, attribute = name.partition(":")
        try:
            IMPORTED[name] = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{where} = {name!r} cannot be imported ({reason}): modules are searched in the folder of the study's "
                "file and among the installed packages"
            ) from error
    return IMPORTED[name]


def require_imported(*names: Any) -> None:
    """Check that none of these names, which a stranger may have written, means code that was not imported.

    Raises:
        InputError: If one of them does.
    """
    if missing := [name for name in names if isinstance(name, str) and is_unknown(name)]:
        raise InputError(f"the study trains with {missing[0]}, which its own file does not name: its code is not run")


def build(name: str, offered: Mapping[str, Any], where: str) -> Any:
    """Return an object of the user's class `module:Name`, built with the offered arguments that its signature names.

    Raises:
        InputError: If it cannot be imported or built with these arguments.
    """
    kind = import_own(name, None, where)
    try:
        return kind(**{key: offered[key] for key in inspect.signature(kind).parameters if key in offered})
    except Exception as error:
        raise InputError(
            f"{where} = {name!r} cannot be built ({error}): derive a class that needs at most {', '.join(offered)}"
        ) from error

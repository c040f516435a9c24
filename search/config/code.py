"""Code of the user that a study names as `module:Name`. It is imported only with the user's consent."""

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainables.config import check_architecture
from trainables.errors import InputError
from trainables.names import IMPORTED, import_own, is_own, is_unknown
from trainables.parameters import list_parameters

OWN_KEY = re.compile(
    r"trainable|search\.(architectures|sampler|scheduler)|recipes\.(architecture|params\.optimizer)"
    r"|space\.\w+\.optimizer(\.choice)?"
)
"""Keys of a study whose value may be `module:Name`."""


def import_user_code(
    values: Mapping[str, Any], folder: Path | None, cure: str = "name its folder with --code"
) -> str | None:
    """Import the code of the user that a study or a model names, from the folder that the user gave.

    Args:
        values: The study as plain values. A folder in them does not come from the user, and is not read.
        folder: Where the user's modules are; None if the user gave none, so that nothing may be imported.
        cure: How the user gives a folder, for the message.

    Returns:
        The folder, for `StudyConfig.code`; None if no code of the user is named.

    Raises:
        InputError: If code is named without a folder, cannot be imported, or is not what its key expects.
    """
    named = list(list_own(values))
    if folder is None:
        if missing := [name for _, name in named if is_unknown(name)]:
            raise InputError(f"the study runs code that is not of this project, {missing[0]}: if you trust it, {cure}")
        return None
    for where, name in named:
        found = import_own(name, str(folder.resolve()), where)
        if where == "trainable":
            take_function(name, found)
        elif where in ("search.architectures", "recipes.architecture"):
            check_architecture(name, found)
    return str(folder.resolve()) if named else None


def list_own(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and name of all code of the user in a study."""

    def walk(where: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, below in value.items():
                yield from walk(f"{where}.{key}".lstrip("."), below)
        elif isinstance(value, list | tuple):
            for below in value:
                yield from walk(where, below)
        elif isinstance(value, str) and is_own(value) and OWN_KEY.fullmatch(where):
            yield where.removesuffix(".choice"), value

    yield from walk("", values)


def take_function(name: str, function: Any) -> None:
    """Register a training function of the user, so that a study may name it.

    Raises:
        InputError: If it is not a generator function, or its parameters cannot be searched.
    """
    if not inspect.isgeneratorfunction(function):
        raise InputError(f"trainable = {name!r}: expected a generator function, which yields its metrics in each epoch")
    list_parameters(function)
    IMPORTED[name] = function


def locate(function: Any) -> tuple[str, Path]:
    """Return the module of a function, and the folder in which a worker finds it.

    Raises:
        InputError: If a worker cannot import it, because it is in no file or not at the top level of one.
    """
    if not inspect.isfunction(function):
        raise InputError(f"search: expected a function that is defined with `def`, not {str(function)[:100]!r}")
    path = inspect.getsourcefile(function)
    module = Path(path or "").stem if function.__module__ == "__main__" else function.__module__
    is_plain = function.__name__ == function.__qualname__ and is_own(f"{module}:{function.__name__}")
    if path is None or not Path(path).is_file() or not is_plain:
        cure = "define it at the top of a .py file that has the name of a module, so that workers can import it"
        raise InputError(f"the function {function.__qualname__}: {cure}")
    if function.__module__ == "__main__":
        return module, Path(path).resolve().parent
    package = Path(path).resolve().parents[module.count(".")]
    return module, package if Path(path).name != "__init__.py" else package.parent

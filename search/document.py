"""YAML documents: read strictly, one laid over another, single values set from the command line.

The only file that knows YAML.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainables.durable import write_file
from trainables.errors import InputError


def read_document(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read one YAML mapping, laid over the one that its `extends` names (relative to it).

    Args:
        path: The file.
        above: Files that extend this one.

    Raises:
        InputError: If a file is missing, is not a YAML mapping, or extends itself.
    """
    if path.resolve() in above:
        raise InputError(f"{path} extends itself")
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a mapping of keys to values, not {type(value).__name__}")
    base = value.pop("extends", None)
    return value if base is None else overlay(read_document(path.parent / str(base), (*above, path.resolve())), value)


def write_document(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain values as YAML in one step."""
    write_file(path, format_document(value).encode())


def format_document(value: Mapping[str, Any]) -> str:
    """Return plain values as YAML, keys in their order."""
    text: str = yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=120)
    return text


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Lay top over base, key by key; a searched parameter replaces what was there as a whole."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        is_section = isinstance(value, dict) and not {"choice", "low"} & set(value)
        merged[key] = overlay(below, value) if is_section and isinstance(below, dict) else value
    return merged


def set_value(document: dict[str, Any], override: str) -> None:
    """Apply one PATH=VALUE in place, such as search.num_trials=5; VALUE is YAML.

    Raises:
        InputError: If the form is wrong or PATH leads through a single value.
    """
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise InputError(f"--set {override}: expected PATH=VALUE, such as search.num_trials=5")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise InputError(f"--set {override}: the value is not valid YAML") from None
    *parents, last = path.split(".")
    for key in parents:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise InputError(f"--set {override}: {key} is a single value, it has no keys below it")
    document[last] = value


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: 1e-3 is a number, `on` and `yes` are text; a repeated key is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 PyYAML's own attribute, replaced as a whole

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or the loader would take for something else, such as 12e34567 and `on`."""


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):  # fmt: skip
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _read_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """Read a decimal number; by YAML 1.1 leading zeros would make it an octal one."""
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _read_int)

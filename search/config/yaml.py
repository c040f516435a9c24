"""Reads and writes YAML: strict reading, one file over another, single values from the command line.

This is the only file that imports PyYAML.
"""

import functools
import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from search.config.untrusted import MANIFEST_BYTES, read_file
from trainables.durable import write_file
from trainables.errors import InputError

MAX_DEPTH = 32
"""Largest depth of nested collections in an untrusted file; a study.yaml has 6."""
MAX_NODES = 200_000
"""Most values and keys in an untrusted file; each takes 1 kB of memory while it is read."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping over the one that its `extends` names.

    Raises:
        InputError: As `read_layers`.
    """
    return functools.reduce(overlay, (values for _, values in read_layers(path)))


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the file that a YAML mapping `extends`, relative to it, and then itself: each with its own values.

    Args:
        path: The file.
        above: Files that extend this one, directly or not.

    Raises:
        InputError: If a file is missing, is not a YAML mapping, or extends itself.
    """
    if path.resolve() in above:
        raise InputError(f"{path} extends itself")
    try:
        value = _parse(path, path.read_bytes(), _Loader)
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}") from None
    base = value.pop("extends", None)
    if base is not None:
        yield from read_layers(path.parent / str(base), (*above, path.resolve()))
    yield path, value


def read_untrusted_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping that may come from a stranger: its size is bounded, and `extends` has no effect.

    Raises:
        InputError: If the file is missing, a link, too large, too deep, not a YAML mapping, or has aliases.
    """
    try:
        return _parse(path, read_file(path, MANIFEST_BYTES), _UntrustedLoader)
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}") from None


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain values as a YAML file, atomically."""
    write_file(path, format_yaml(value).encode())


def format_yaml(value: Mapping[str, Any]) -> str:
    """Return plain values as YAML; keys keep their order."""
    text: str = yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=120)
    return text


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return base with the values of top, key by key; a range or a choice is replaced as a whole."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        is_section = isinstance(value, dict) and not {"choice", "low"} & set(value)
        merged[key] = overlay(below, value) if is_section and isinstance(below, dict) else value
    return merged


def set_value(values: dict[str, Any], override: str) -> None:
    """Apply one PATH=VALUE in place, such as search.num_trials=5; VALUE is YAML.

    Raises:
        InputError: If the form is wrong, or a part of PATH before the last is not a mapping.
    """
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise InputError(f"--set {override}: expected PATH=VALUE, such as search.num_trials=5")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        raise InputError(f"--set {override}: the value is not valid YAML") from None
    *parents, last = path.split(".")
    for key in parents:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {override}: {key} is a single value, which has no keys below it")
    values[last] = value


def _parse(path: Path, content: bytes, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
    try:
        value = yaml.load(content.decode(), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error)[-500:].split())}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must contain a mapping of keys to values, not {type(value).__name__}")
    return value


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: 1e-3 is a number, `on` and `yes` are text; a repeated key is an error.

    A value that contains itself through an alias is an error too, because every walk through it would be endless.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 PyYAML's own attribute, replaced as a whole

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a single value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is repeated", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ARG002 PyYAML's
        """Raise PyYAML's own error for each error of its constructors: a wrong tag, too many digits."""
        if node in self.recursive_objects:
            raise yaml.constructor.ConstructorError(None, None, "a value contains itself", node.start_mark)
        try:
            return super().construct_object(node, deep=True)  # not later, when it is no longer in recursive_objects
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise yaml.constructor.ConstructorError(None, None, f"no such value: {error}", node.start_mark) from None


class _UntrustedLoader(_Loader):
    """Bounds depth and size; refuses aliases, which can expand to any size, and lone surrogates."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML's
        self._nodes += 1
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed in this file", mark)
        if self._depth == MAX_DEPTH or self._nodes > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, "too deeply nested, or too many values", mark)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        text: str = super().construct_scalar(node)
        text.encode()  # raises ValueError for a lone surrogate
        return text


class _Dumper(yaml.SafeDumper):
    """Quotes each text that YAML 1.1 or the loader would read as another type, such as 12e34567 and `on`.

    An object that occurs twice is written out both times, because the reader refuses aliases.
    """

    def ignore_aliases(self, *_: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):  # fmt: skip
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _read_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """Read a decimal number; in YAML 1.1 leading zeros would make it octal."""
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _read_int)

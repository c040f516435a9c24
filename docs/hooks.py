"""Writes the tables that pages take from the code and from LOG.md; mkdocs calls `on_page_markdown` for each page.

A marker in the page says where: `<!-- keys -->`, `<!-- parameters -->` or `<!-- figures -->`.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, Literal

from search.config.schema import StudyConfig
from trainables.config import ARCHITECTURES, RUN_FIELDS, TrainConfig
from trainables.parameters import read_sentences

LOG = Path(__file__).parent.parent / "LOG.md"
KINDS = {bool: "true or false", int: "integer", float: "number", str: "text"}
BOUNDS = {"ge": "at least {:g}", "gt": "above {:g}", "le": "at most {:g}", "lt": "below {:g}"}
LARGEST = 1e6
"""Larger bounds are not shown: they only keep files readable by other programs."""
UNITS = {
    "s": "seconds",
    "hours": "hours",
    "epochs": "epochs",
    "trials": "trials",
    "images": "images",
    "nodes": "nodes",
    "cpus": "CPU cores",
    "gpus": "GPUs",
    "fraction": "share",
    "shares": "weight",
    "concurrent": "trials",
    "failures": "lost workers",
    "seed": "",
    "size": "pixels",
    "factor": "factor",
    "delta": "of the metric",
    "seeds": "retrainings",
    "k": "configurations",
    "threshold": "probability",
    "target": "of the metric",
    "temperature": "",
}
"""Last word of a key that is a number -> its unit."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page by their tables."""
    for name, render in MARKERS.items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, render())
    return markdown


def render_keys() -> str:
    """Return the tables of all keys of a study: its own, then those of each section."""
    hints = typing.get_type_hints(StudyConfig, include_extras=True)
    sections = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    sections["resources.ARCHITECTURE"] = typing.get_args(hints["resources"])[1]
    own = _render_fields(StudyConfig, leave_out={*sections, "recipes"})
    tables = [f"### Keys of the study\n\n{own}"]
    for name, section in sections.items():
        purpose = str(inspect.getdoc(section)).splitlines()[0]
        tables.append(f"### {name}\n\n{purpose}\n\n{_render_fields(section, f'{name}.')}")
    return "\n\n".join(tables)


def render_parameters() -> str:
    """Return the tables of all parameters that a space may name: of each architecture, then of every training."""
    tables = [f"### {name}\n\n{_render_parameters(config)}" for name, config in ARCHITECTURES.items()]
    return "\n\n".join([*tables, f"### Training, for every architecture\n\n{_render_parameters(TrainConfig)}"])


def render_figures() -> str:
    """Return the table at the top of LOG.md."""
    _, _, rest = LOG.read_text().partition("## Figures in force\n")
    return rest.partition("\n## ")[0].strip()


def describe_type(hint: Any) -> str:
    """Return in words what a value may be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [text.format(value) for text, value in _list_bounds(arguments[1:])]
        return ", ".join([describe_type(arguments[0]), *bounds])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe_type(argument) for argument in arguments))
    if origin is tuple:
        return f"list of {describe_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    return "`null`" if hint is type(None) else KINDS.get(hint, "mapping")


def find_unit(name: str, hint: Any) -> str:
    """Return the unit of a key, empty if its value is no number.

    Raises:
        ValueError: If a number's unit is unknown.
    """
    if not _has_number(hint):
        return ""
    word = name.rpartition("_")[2]
    if word not in UNITS:
        raise ValueError(f"{name} is a number without a unit: add {word!r} to UNITS in docs/hooks.py")
    return UNITS[word]


def _render_fields(kind: Any, prefix: str = "", leave_out: Container[str] = ()) -> str:
    hints, sentences = typing.get_type_hints(kind, include_extras=True), read_sentences(kind)
    rows = ["| key | type | unit | default | meaning |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if field.name in leave_out:
            continue
        hint = hints[field.name]
        cells = [describe_type(hint), find_unit(field.name, hint), _show_default(field), sentences[field.name]]
        rows.append(" | ".join([f"| `{prefix}{field.name}`", *map(_escape, cells)]) + " |")
    return "\n".join(rows)


def _render_parameters(kind: Any) -> str:
    hints, sentences = typing.get_type_hints(kind), read_sentences(kind)
    rows = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if field.name not in RUN_FIELDS:
            cells = [describe_type(hints[field.name]), _show_default(field), sentences[field.name]]
            rows.append(" | ".join([f"| `{field.name}`", *map(_escape, cells)]) + " |")
    return "\n".join(rows)


def _show_default(field: Any) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is dataclasses.MISSING:
        return "required"
    else:
        value = field.default
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _list_bounds(metadata: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    for part in metadata:
        for bound in getattr(part, "metadata", [part]):  # pydantic's Field holds them, or they stand alone
            for name, text in BOUNDS.items():
                if (value := getattr(bound, name, None)) is not None and value < LARGEST:
                    yield text, value


def _has_number(hint: Any) -> bool:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is dict and typing.get_origin(arguments[1]) is dict:
        return False  # the space, whose parameters have units of their own
    return hint in (int, float) or any(map(_has_number, arguments))


def _escape(text: str) -> str:
    return re.sub(r"\bNone\b", "`null`", text).replace("|", "\\|")


MARKERS: dict[str, Callable[[], str]] = {
    "keys": render_keys,
    "parameters": render_parameters,
    "figures": render_figures,
}
"""Marker -> function that writes its table."""

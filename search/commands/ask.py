"""Enqueues a configuration, from another terminal, while a search runs or before it is resumed.

python -m search ask results/NAME cnn filters=64 learning_rate=0.001
"""

from typing import Annotated

import typer

from search.commands.inspect import Inspected
from search.commands.terminal import build_console, explain_errors
from search.config.conditions import drop_inactive, list_conditions
from search.config.printable import escape, format_params
from search.config.schema import StudyConfig
from search.config.space import Choice, Range, list_specs
from search.config.space_checks import check_point
from search.config.yaml import set_value
from search.record.reading import read_study
from search.record.requests import Request, send_request
from trainables.config import Value
from trainables.errors import InputError
from trainables.names import shorten


def main(
    place: Annotated[str, typer.Argument(metavar="results/NAME", help="The study's folder, or its URL in a store.")],
    architecture: Annotated[str, typer.Argument(help="An architecture of the study.")],
    values: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="Parameters; the sampler proposes the others.")
    ],
) -> None:
    """Enqueue a configuration: it becomes the next trial of the study."""
    console = build_console()
    with explain_errors(), read_study(place) as reader:
        study = Inspected(reader)
        name, point = read_values(reader.config, architecture, values)
        if study.spent is not None:
            raise InputError(f"{place} has ended, because {study.spent}: change that key, resume, then ask")
        ask = {f"{shorten(name)}.{key}": value for key, value in point.items()}
        send_request(reader.config.url or reader.directory, Request(ask=ask, trial=None))
        is_searched = study.is_searched_by(reader.find_holder())
        then = "it is the next trial" if is_searched else "the study trains it when it is continued with --resume"
        console.print(f"{name} {escape(format_params(point))} is enqueued: {then}.", soft_wrap=True)


def read_values(config: StudyConfig, architecture: str, values: list[str]) -> tuple[str, dict[str, Value]]:
    """Return the name of an architecture and the given values of its parameters, after a check.

    Raises:
        InputError: If the study does not search it, or they are not in its space.
    """
    known = {key: name for name in config.search.architectures for key in (name, shorten(name))}
    if architecture not in known:
        raise InputError(f"{config.location} searches {' and '.join(config.search.architectures)}, not {architecture}")
    name, point = known[architecture], dict[str, Value]()
    for value in values:
        key, equals, _ = value.partition("=")
        if not key or not equals:
            raise InputError(f"{value}: expected NAME=VALUE, such as filters=64")
        if key in point:
            raise InputError(f"{key} is given twice: give it once")
        set_value(point, value)
    specs = list_specs(config.space, name)
    check_point(specs, name, point, config.data.size)
    fixed = {key: spec for key, spec in specs.items() if not isinstance(spec, Range | Choice)}
    if lost := sorted(point.keys() - drop_inactive(list_conditions(specs), fixed | point).keys()):
        raise InputError(f"{name}.{lost[0]} has a condition in the space: give the parameters of its `when` too")
    return name, point

"""Ends a search that runs in another terminal, or one of its trials, in good order.

python -m search stop results/NAME [--trial N]
"""

from typing import Annotated

import typer

from search.commands.inspect import Inspected
from search.commands.terminal import build_console, explain_errors
from search.record.reading import read_study
from search.record.requests import Request, send_request
from search.record.trial import State
from trainables.errors import InputError


def main(
    place: Annotated[str, typer.Argument(metavar="results/NAME", help="The study's folder, or its URL in a store.")],
    number: Annotated[int | None, typer.Option("--trial", metavar="N", help="End only this trial.")] = None,
) -> None:
    """End a search in good order, so that its winners are evaluated; or end one of its trials."""
    console = build_console()
    with explain_errors(), read_study(place) as reader:
        study = Inspected(reader)
        holder = reader.find_holder()
        if holder is None:
            cure = f"python -m search evaluate {place} evaluates its trials"
            raise InputError(f"{place} is not being searched, so there is nothing to stop: {cure}")
        if not study.is_searched_by(holder):
            raise InputError(
                f"{place} is not being searched, but evaluated or uploaded by {holder}: Ctrl-C there ends that"
            )
        if number is not None and (trial := study.find(number)).state is not State.RUNNING:
            running = ", ".join(str(trial.number) for trial in study.trials if trial.state is State.RUNNING) or "none"
            raise InputError(f"trial {number} of {place} has ended ({trial.state}); running: {running}")
        send_request(reader.config.url or reader.directory, Request(ask=None, trial=number))
        what = f"the search of {place}" if number is None else f"trial {number} of {place}"
        console.print(f"{what} is asked to end; it does so within seconds.", soft_wrap=True)

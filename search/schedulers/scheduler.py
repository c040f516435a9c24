"""The contract of a scheduler, and the table of all schedulers.

A scheduler sees every epoch of one architecture's trials once, in the order of the journal. It holds only what the
journal holds, so replaying the journal into a new scheduler rebuilds its state.
"""

from collections.abc import Callable
from typing import Protocol

from search.config.search import SearchConfig
from search.schedulers.asha import Asha
from search.schedulers.hyperband import Hyperband
from search.schedulers.median import Median
from trainables.errors import InputError
from trainables.names import build


class Scheduler(Protocol):
    """Decides after each epoch whether a trial stops."""

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Take in one epoch of a trial and return whether the trial stops after it.

        Args:
            number: Number of the trial.
            epoch: From 1; each epoch of a trial is reported once, in ascending order.
            value: Its validation metric, finite; larger is better, since the study changes the sign if goal is min.
        """


class NoScheduler:
    """Stops no trial."""

    def report(self, number: int, epoch: int, value: float) -> bool:  # noqa: ARG002 the contract's names
        """See Scheduler."""
        return False


SCHEDULERS: dict[str, Callable[[SearchConfig, str], Scheduler]] = {
    "asha": lambda search, name: Asha(
        grace_epochs=search.find_first_rung(name),
        reduction_factor=search.reduction_factor,
        max_epochs=search.count_epochs(name),
    ),
    "hyperband": lambda search, name: Hyperband(
        grace_epochs=search.find_first_rung(name),
        reduction_factor=search.reduction_factor,
        max_epochs=search.count_epochs(name),
    ),
    "median": lambda search, name: Median(grace_epochs=search.find_first_rung(name)),
    "none": lambda _search, _name: NoScheduler(),
}
"""Name -> scheduler for one architecture's trials."""
HALVING = ("asha", "hyperband")
"""Schedulers that compare trials at rungs."""


def build_scheduler(search: SearchConfig, architecture: str) -> Scheduler:
    """Return the scheduler of one architecture's trials: one of ours, or the user's own class.

    Raises:
        InputError: If the class cannot be built with the arguments that a study offers, or has no `report`.
    """
    if search.scheduler in SCHEDULERS:
        return SCHEDULERS[search.scheduler](search, architecture)
    offered = {"grace_epochs": search.find_first_rung(architecture), "reduction_factor": search.reduction_factor}
    offered |= {"max_epochs": search.count_epochs(architecture), "seed": search.seed}
    scheduler: Scheduler = build(search.scheduler, offered, "search.scheduler")
    if not callable(getattr(scheduler, "report", None)):
        raise InputError(f"search.scheduler = {search.scheduler!r} lacks report(number, epoch, value) -> bool")
    return scheduler


def ask_scheduler(scheduler: Scheduler, name: str, number: int, epoch: int, value: float) -> bool:
    """Report an epoch to a scheduler and return whether the trial stops after it.

    Raises:
        InputError: If a class of the user raises an error.
    """
    try:
        return scheduler.report(number, epoch, value)
    except Exception as error:
        if name in SCHEDULERS:
            raise
        raise InputError(
            f"search.scheduler = {name!r} fails at trial {number}, epoch {epoch} ({type(error).__name__}: {error}): "
            "correct it, then resume with --accept-changes"
        ) from error

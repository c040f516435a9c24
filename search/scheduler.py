"""Schedulers: who stops a trial, decided from the record alone.

A scheduler sees every epoch of one architecture's trials once, in the order of the record, and answers each with stop
or go on. It keeps nothing that the record does not hold, so replaying the record into a new one rebuilds it.
"""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from search.config import SearchConfig


class Scheduler(Protocol):
    """Decides after each epoch whether a trial goes on."""

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Take in one epoch of a trial and return whether to stop the trial there.

        Args:
            number: The trial.
            epoch: From 1, each once, ascending within a trial.
            value: Its validation metric; larger is better, finite.
        """


class Asha:
    """Asynchronous successive halving, the stopping variant.

    A trial that reaches a rung is stopped when its value is below the quantile 1 - 1/reduction_factor of the values
    that reached the rung before it. The first trial at a rung always goes on, and so does a tie.

    Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning (arXiv:1810.05934), in the variant
    of Ray Tune's AsyncHyperBandScheduler with one bracket, with which it agrees decision by decision (tested).
    """

    def __init__(self, *, grace_epochs: int, reduction_factor: float, max_epochs: int) -> None:
        self.rungs: dict[int, dict[int, float]] = {
            epoch: {} for epoch in list_rungs(grace_epochs, reduction_factor, max_epochs)
        }
        """Values by trial, by the epoch of the rung."""
        self._quantile = 1 - 1 / reduction_factor

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See Scheduler."""
        rung = self.rungs.get(epoch)
        if rung is None:
            return False
        stop = bool(rung) and value < float(np.quantile(list(rung.values()), self._quantile))
        rung[number] = value
        return stop


class NoScheduler:
    """Stops nobody."""

    def report(self, number: int, epoch: int, value: float) -> bool:  # noqa: ARG002 the contract's names
        """See Scheduler."""
        return False


SCHEDULERS: dict[str, Callable[[SearchConfig], Scheduler]] = {
    "asha": lambda search: Asha(
        grace_epochs=search.grace_epochs,
        reduction_factor=search.reduction_factor,
        max_epochs=search.max_epochs,
    ),
    "none": lambda _: NoScheduler(),
}


def list_rungs(grace_epochs: int, reduction_factor: float, max_epochs: int) -> list[int]:
    """Return the epochs at which trials are compared, below max_epochs."""
    rungs = set()
    height = float(grace_epochs)
    while (rung := math.ceil(round(height, 9))) < max_epochs:
        rungs.add(rung)
        height *= reduction_factor
    return sorted(rungs)

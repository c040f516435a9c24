"""Schedulers: who stops a trial, decided from the record alone.

A scheduler sees every epoch of one architecture's trials once, in the order of the record, and answers each with stop
or go on. It keeps nothing that the record does not hold, so replaying the record into a new one rebuilds it.
"""

import bisect
import itertools
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from search.config.schema import SearchConfig

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
NUM_PEERS = 5
"""The median of fewer says little; so many are Optuna's default."""


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


class Hyperband:
    """Several ASHAs with ever later first rungs, so that a trial that starts slowly gets its chance too.

    The bracket follows from the trial's number alone. The trials are dealt out to the brackets' shares by multiples
    of the golden ratio, which fill the unit interval evenly whichever numbers an architecture has.

    Source: Li et al. 2018, Hyperband, algorithm 1 (arXiv:1603.06560), each bracket an ASHA as in Li et al. 2020,
    section 3.2 (arXiv:1810.05934); the dealing is ours.
    """

    def __init__(self, *, grace_epochs: int, reduction_factor: float, max_epochs: int) -> None:
        found = list_brackets(grace_epochs, reduction_factor, max_epochs)
        self.brackets = [
            Asha(grace_epochs=first, reduction_factor=reduction_factor, max_epochs=max_epochs) for first, _ in found
        ]
        """From the one with all rungs to the one with none."""
        self._ends = list(itertools.accumulate(share for _, share in found))

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See Scheduler."""
        return self.brackets[self.find_bracket(number)].report(number, epoch, value)

    def find_bracket(self, number: int) -> int:
        """Return the place of a trial's bracket."""
        return bisect.bisect_right(self._ends[:-1], number * GOLDEN % 1.0)


class Median:
    """Stops a trial whose best value so far is below the median of the others' averages up to the same epoch.

    No trial is stopped before `grace_epochs`, nor by fewer than NUM_PEERS others.

    Source: Golovin et al. 2017, Google Vizier, section 3.1.2, with all that reached the epoch in place of the
    completed; the number of others is Optuna's.
    """

    def __init__(self, *, grace_epochs: int) -> None:
        self._grace_epochs = grace_epochs
        self._curves: dict[int, list[float]] = {}
        self._averages: dict[int, list[float]] = {}

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See Scheduler."""
        curve = self._curves.setdefault(number, [])
        curve.append(value)
        others = self._averages.setdefault(epoch, [])
        stop = epoch >= self._grace_epochs and len(others) >= NUM_PEERS and max(curve) < float(np.median(others))
        others.append(sum(curve) / len(curve))
        return stop


class NoScheduler:
    """Stops nobody."""

    def report(self, number: int, epoch: int, value: float) -> bool:  # noqa: ARG002 the contract's names
        """See Scheduler."""
        return False


SCHEDULERS: dict[str, Callable[[SearchConfig], Scheduler]] = {
    "asha": lambda search: Asha(
        grace_epochs=search.first_rung,
        reduction_factor=search.reduction_factor,
        max_epochs=search.max_epochs,
    ),
    "hyperband": lambda search: Hyperband(
        grace_epochs=search.first_rung,
        reduction_factor=search.reduction_factor,
        max_epochs=search.max_epochs,
    ),
    "median": lambda search: Median(grace_epochs=search.first_rung),
    "none": lambda _: NoScheduler(),
}
HALVING = ("asha", "hyperband")
"""Schedulers that compare trials at rungs."""


def list_rungs(grace_epochs: int, reduction_factor: float, max_epochs: int) -> list[int]:
    """Return the epochs at which trials are compared, below max_epochs."""
    rungs = set()
    height = float(grace_epochs)
    while (rung := math.ceil(round(height, 9))) < max_epochs:
        rungs.add(rung)
        height *= reduction_factor
    return sorted(rungs)


def list_brackets(grace_epochs: int, reduction_factor: float, max_epochs: int) -> list[tuple[int, float]]:
    """Return each bracket's first rung and its share of the trials; the last has no rung below max_epochs.

    The brackets get the same epochs: one of s rungs has trials in proportion to reduction_factor ** s / (s + 1).
    """
    rungs = list_rungs(grace_epochs, reduction_factor, max_epochs)
    weights = [reduction_factor**left / (left + 1) for left in range(len(rungs), -1, -1)]
    return [(first, weight / sum(weights)) for first, weight in zip([*rungs, max_epochs], weights, strict=True)]

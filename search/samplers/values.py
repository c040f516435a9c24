"""Comparable values of stopped, running and finished trials.

A stopped trial has a low value because it trained less. So its value at later rungs is predicted from the trials that
reached both rungs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.config.rungs import list_rungs
from search.config.search import SearchConfig
from search.record.trial import State, Trial

Array = NDArray[np.float64]
STEEPEST = 2.0
"""Largest slope of the line from one rung to the next; the smallest is 0."""


def list_levels(search: SearchConfig, architecture: str) -> list[int]:
    """Return the epochs at which trials of an architecture have a value: the scheduler's rungs, and the last epoch.

    Median and a scheduler of the user's own get the rungs that ASHA would have.
    """
    whole = search.count_epochs(architecture)
    rungs = list_rungs(search.find_first_rung(architecture), search.reduction_factor, whole)
    return [*(rungs if search.scheduler != "none" else []), whole]


def list_bests(trial: Trial, levels: Sequence[int]) -> list[float]:
    """Return the best score up to each level, NaN if it was not reached; a complete trial reached the last level."""
    scores = trial.list_scores()
    bests = [max(scores[:level]) if len(scores) >= level else np.nan for level in levels]
    return [*bests[:-1], max(scores)] if scores and trial.state is State.COMPLETE else bests


def extrapolate(bests: Array) -> Array:
    """Carry values up to the last level.

    From each level to the next the value follows the linear regression over the trials that reached both. Its slope is
    pulled towards 1 with the weight of one trial.

    Args:
        bests: (trials, levels), as of `list_bests`.

    Returns:
        (trials, levels): the estimate of each value at the last level.
    """
    carried = bests.copy()
    for low in range(bests.shape[1] - 1):
        reached = bests[~np.isnan(bests[:, low]), low : low + 2]
        both = reached[~np.isnan(reached[:, 1])]
        ridge = float(reached[:, 0].var()) + 1e-12 if len(reached) else 1.0
        means = both.mean(axis=0) if len(both) else np.zeros(2)
        gaps = both - means
        slope = np.clip((gaps[:, 0] @ gaps[:, 1] + ridge) / (gaps[:, 0] @ gaps[:, 0] + ridge), 0.0, STEEPEST)
        carried[:, : low + 1] = means[1] + slope * (carried[:, : low + 1] - means[0])
    return carried


class Values:
    """The values of one architecture's trials, kept up to date while they run."""

    def __init__(self, levels: Sequence[int]) -> None:
        self._levels = tuple(levels)
        self._running: dict[int, Trial] = {}
        self._ended: dict[int, list[float]] = {}

    def start(self, trial: Trial) -> None:
        """Take in a trial that starts; its epochs are read when values are asked for."""
        self._running[trial.number] = trial

    def end(self, trial: Trial) -> None:
        """Take in the end of a trial."""
        self._running.pop(trial.number, None)
        self._ended[trial.number] = list_bests(trial, self._levels)

    def compare(self, numbers: Sequence[int]) -> Array:
        """Return (trials, levels): for each level that a trial reached, the estimate of its value at the last level."""
        bests = [
            list_bests(self._running[number], self._levels) if number in self._running else self._ended[number]
            for number in numbers
        ]
        return extrapolate(np.array(bests, dtype=float).reshape(len(numbers), len(self._levels)))


def take_highest(values: Array) -> Array:
    """Return each trial's value of its highest level, minus infinity for a trial that reached none."""
    highest = np.full(len(values), -np.inf)
    for level in values.T:
        highest = np.where(np.isnan(level), highest, level)
    return highest

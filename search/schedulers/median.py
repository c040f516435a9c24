"""The median stopping rule."""

import numpy as np

NUM_PEERS = 5
"""Smallest number of other trials for a median. Source: the default of Optuna's MedianPruner."""


class Median:
    """Stops a trial whose best value so far is below the median of the other trials' averages up to the same epoch.

    No trial stops before `grace_epochs`, or while fewer than NUM_PEERS others have reached the epoch.

    Source: Golovin et al. 2017, Google Vizier, section 3.1.2. Vizier compares with completed trials only, this rule
    with all trials that reached the epoch.
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

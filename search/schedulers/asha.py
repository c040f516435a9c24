"""ASHA: stop a trial that is not among the best at a rung."""

import numpy as np

from search.config.rungs import list_rungs


class Asha:
    """Asynchronous successive halving, the stopping variant.

    A trial that reaches a rung stops if its value is below the quantile 1 - 1/reduction_factor of the values that
    reached the rung before it. The first trial at a rung continues, and so does a tie.

    Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning (arXiv:1810.05934), in the variant
    of Ray Tune's AsyncHyperBandScheduler with one bracket. A test checks that both make the same decisions.
    """

    def __init__(self, *, grace_epochs: int, reduction_factor: float, max_epochs: int) -> None:
        self.rungs: dict[int, dict[int, float]] = {
            epoch: {} for epoch in list_rungs(grace_epochs, reduction_factor, max_epochs)
        }
        """Epoch of the rung -> trial -> value."""
        self._quantile = 1 - 1 / reduction_factor

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See Scheduler."""
        rung = self.rungs.get(epoch)
        if rung is None:
            return False
        stop = bool(rung) and value < float(np.quantile(list(rung.values()), self._quantile))
        rung[number] = value
        return stop

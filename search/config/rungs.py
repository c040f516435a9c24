"""Rungs: the epochs at which ASHA and Hyperband compare trials."""

import math


def list_rungs(grace_epochs: int, reduction_factor: float, max_epochs: int) -> list[int]:
    """Return the epochs at which trials are compared, ascending, all below max_epochs.

    Args:
        grace_epochs: The first rung, at least 1.
        reduction_factor: Each rung is this many times as high as the one before, rounded up; above 1.
        max_epochs: Epochs of a trial that is never stopped.
    """
    rungs = set()
    height = float(grace_epochs)
    while (rung := math.ceil(round(height, 9))) < max_epochs:
        rungs.add(rung)
        height *= reduction_factor
    return sorted(rungs)


def list_brackets(grace_epochs: int, reduction_factor: float, max_epochs: int) -> list[tuple[int, float]]:
    """Return Hyperband's brackets: the first rung of each and its share of the trials.

    All brackets get the same number of epochs, so a bracket of s rungs gets trials in proportion to
    reduction_factor ** s / (s + 1). The last bracket has no rung below max_epochs.
    """
    rungs = list_rungs(grace_epochs, reduction_factor, max_epochs)
    weights = [reduction_factor**left / (left + 1) for left in range(len(rungs), -1, -1)]
    return [(first, weight / sum(weights)) for first, weight in zip([*rungs, max_epochs], weights, strict=True)]

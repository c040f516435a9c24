"""Ends a trial whose metric no longer rises."""

import math
from collections.abc import Sequence


def is_converged(values: Sequence[float], patience: int, delta: float) -> bool:
    """Answer whether none of the last `patience` values rose by more than delta above the best before it.

    Args:
        values: The validation metric of epoch 1, 2, ..., larger is better.
        patience: Epochs, at least 1.
        delta: In units of the metric, at least 0; a smaller rise does not raise the value to beat.
    """
    best, stale = -math.inf, 0
    for value in values:
        best, stale = (value, 0) if value > best + delta else (best, stale + 1)
    return stale >= patience

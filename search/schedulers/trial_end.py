"""Ends a trial: after its last epoch, if the scheduler stops it, or when its metric no longer improves."""

import math
from collections.abc import Sequence

from search.config.search import SearchConfig
from search.record.trial import State, Trial


def find_end(search: SearchConfig, trial: Trial, *, stop: bool) -> tuple[State, str | None] | None:
    """Return the state and the reason with which a trial ends after its last recorded epoch; None if it continues.

    Args:
        search: The keys of the search.
        trial: A running trial.
        stop: Whether the scheduler stops it there.
    """
    patience = search.patience_epochs
    if len(trial.epochs) >= search.count_epochs(trial.architecture):
        return State.COMPLETE, None
    if stop:
        return State.PRUNED, f"stopped by {search.scheduler} at epoch {len(trial.epochs)}"
    if patience is not None and is_converged(trial.list_scores(), patience, search.patience_delta):
        return State.COMPLETE, f"no better for {patience} epochs"
    return None


def is_converged(values: Sequence[float], patience: int, delta: float) -> bool:
    """Return whether none of the last `patience` values rose by more than delta above the best before it.

    Args:
        values: The validation metric of epoch 1, 2, ..., larger is better.
        patience: Epochs, at least 1.
        delta: In units of the metric, at least 0; a smaller rise does not raise the value to beat.
    """
    best, stale = -math.inf, 0
    for value in values:
        best, stale = (value, 0) if value > best + delta else (best, stale + 1)
    return stale >= patience

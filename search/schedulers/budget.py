"""Ends a search whose budget is used up, or that fails from the start."""

from collections.abc import Sequence

from search.config.search import SearchConfig

NUM_EARLY_FAILURES = 5
"""The study halts if this many trials are the first to end since it was opened and all fail for one reason."""


def describe_spent(search: SearchConfig, num_epochs: int, elapsed_s: float) -> str | None:
    """Return which budget is used up, or None."""
    if search.max_hours is not None and elapsed_s >= search.max_hours * 3600:
        return f"the budget of {search.max_hours:g} hours is used"
    if search.max_total_epochs is not None and num_epochs >= search.max_total_epochs:
        return f"the budget of {search.max_total_epochs} epochs is used"
    return None


def describe_failures(ends: Sequence[str | None]) -> str | None:
    """Return why a search halts for its failures, or None.

    Args:
        ends: Why trials failed, or None, in the order of their ends since the study was opened.
    """
    first = ends[:NUM_EARLY_FAILURES]
    if len(first) == NUM_EARLY_FAILURES and len(set(first)) == 1 and first[0] is not None:
        return f"the first {NUM_EARLY_FAILURES} trials all failed: {first[0]}"
    return None

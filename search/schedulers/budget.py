"""Ends a search whose budget is used up."""

from search.config.search import SearchConfig


def describe_spent(search: SearchConfig, num_epochs: int, elapsed_s: float) -> str | None:
    """Return which budget is used up, or None."""
    if search.max_hours is not None and elapsed_s >= search.max_hours * 3600:
        return f"the budget of {search.max_hours:g} hours is used"
    if search.max_total_epochs is not None and num_epochs >= search.max_total_epochs:
        return f"the budget of {search.max_total_epochs} epochs is used"
    return None

"""Which architectures may still win: a rising bandit.

The best value of an architecture rises with each further trial, by less and less. So it will stay below a line with the
slope of the last trials. An architecture is behind if its line ends below the best value of another one.

Source: Li et al. 2020, Efficient Automatic CASH via Rising Bandits, AAAI 34(04):4763, algorithm 1.
"""

import itertools
from collections.abc import Mapping, Sequence

WINDOW = 7
"""Trials over which the slope is measured. Source: Li et al. 2020, section 5.1."""


def list_contenders(scores: Mapping[str, Sequence[float]], left: int) -> list[str]:
    """Return the architectures that may still have the best trial.

    Args:
        scores: Of the ended trials of each architecture, in their order; larger is better.
        left: Remaining trials of all architectures together.

    Returns:
        Names in the order of `scores`; one with at most WINDOW trials is always among them.
    """
    highest = max((score for own in scores.values() for score in own), default=0.0)
    return [name for name, own in scores.items() if _bound(own, left) >= highest]


def _bound(scores: Sequence[float], left: int) -> float:
    """Return an upper bound of the best score after `left` more trials."""
    best = list(itertools.accumulate(scores, max))
    if len(best) <= WINDOW:
        return float("inf")
    return best[-1] + left * (best[-1] - best[-1 - WINDOW]) / WINDOW

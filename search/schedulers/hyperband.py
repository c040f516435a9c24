"""Hyperband: several ASHAs, some of which stop trials later."""

import bisect
import itertools
import math

from search.config.rungs import list_brackets
from search.schedulers.asha import Asha

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Hyperband:
    """Several brackets, each an ASHA with a later first rung, so that slow starters can survive too.

    A trial's number determines its bracket: multiples of the golden ratio, modulo 1, are compared with the brackets'
    shares. They fill the unit interval evenly for any set of numbers that an architecture has.

    Source: Li et al. 2018, Hyperband, algorithm 1 (arXiv:1603.06560); each bracket is an ASHA as in Li et al. 2020,
    section 3.2 (arXiv:1810.05934); the choice of the bracket is ours.
    """

    def __init__(self, *, grace_epochs: int, reduction_factor: float, max_epochs: int) -> None:
        found = list_brackets(grace_epochs, reduction_factor, max_epochs)
        self.brackets = [
            Asha(grace_epochs=first, reduction_factor=reduction_factor, max_epochs=max_epochs) for first, _ in found
        ]
        """The first bracket has all rungs, the last has none."""
        self._ends = list(itertools.accumulate(share for _, share in found))

    def report(self, number: int, epoch: int, value: float) -> bool:
        """See Scheduler."""
        return self.brackets[self.find_bracket(number)].report(number, epoch, value)

    def find_bracket(self, number: int) -> int:
        """Return the index of a trial's bracket."""
        return bisect.bisect_right(self._ends[:-1], number * GOLDEN % 1.0)

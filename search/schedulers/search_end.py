"""Ends a search: its budget is used up, its target is reached, its patience ends, or all its first trials fail."""

import math
from collections.abc import Iterable, Sequence

from search.config.search import SearchConfig
from search.record.facts import Stop
from search.record.trial import State, Trial

BUDGET = ("num_trials", "max_hours", "max_total_epochs", "patience_trials", "target")
NUM_EARLY_FAILURES = 5
"""The study halts if this many trials are the first to end since it was opened and all fail for one reason."""


def describe_spent(search: SearchConfig, num_epochs: int, elapsed_s: float) -> str | None:
    """Return which budget is used up, or None."""
    if search.max_hours is not None and elapsed_s >= search.max_hours * 3600:
        return f"the budget of {search.max_hours:g} hours is used"
    if search.max_total_epochs is not None and num_epochs >= search.max_total_epochs:
        return f"the budget of {search.max_total_epochs} epochs is used"
    return None


def count_elapsed(search: SearchConfig, trials: Iterable[Trial], elapsed_s: float) -> float:
    """Return the seconds of searching: all of `max_hours` if a trial ended because they were used.

    An early version did not record when the search halted, only the time of its last epoch.
    """
    budget_s = 0.0 if search.max_hours is None else search.max_hours * 3600
    used = describe_spent(search, 0, budget_s)
    return max(elapsed_s, budget_s) if used and any(trial.reason == used for trial in trials) else elapsed_s


def describe_failures(ends: Sequence[str | None]) -> str | None:
    """Return why a search halts because of failures, or None.

    Args:
        ends: For each trial that ended since the study was opened, in order: why it failed, or None.
    """
    first = ends[:NUM_EARLY_FAILURES]
    if len(first) == NUM_EARLY_FAILURES and len(set(first)) == 1 and first[0] is not None:
        return f"the first {NUM_EARLY_FAILURES} trials all failed: {first[0]}"
    return None


def list_budget(search: SearchConfig) -> dict[str, float | None]:
    """Return the keys that end a search; a search that was stopped by hand continues if one of them changes."""
    return {name: getattr(search, name) for name in BUDGET}


def describe_stop(search: SearchConfig, stops: Sequence[Stop]) -> str | None:
    """Return that the search was stopped by hand with the same budget, or None."""
    if not stops or any(getattr(search, name, None) != value for name, value in stops[-1].budget.items()):
        return None
    return f"it was stopped by hand, with search.num_trials = {search.num_trials}"


class Progress:
    """The best value of each architecture, and how many trials have finished since the last better one.

    It is a function of the journal alone. Values of a failed trial do not count. Values of a running trial count, so no
    search ends while its best trial still improves.
    """

    def __init__(self, trials: Sequence[Trial] = (), epochs: Iterable[tuple[int, int]] = ()) -> None:
        """Take in the recorded trials and epochs.

        Args:
            trials: All trials by number.
            epochs: (trial number, epoch) of every epoch in the order of the journal.
        """
        self.num_finished = 0
        """Other trials that finished since the last better value, after an epoch that was recorded since then."""
        self._best: dict[str, tuple[float, int]] = {}
        self._leader = -1
        self._since: set[int] = set()
        for number, epoch in epochs:
            self.add_epoch(trials[number], epoch)
        for trial in trials:
            self.add_end(trial)

    def add_epoch(self, trial: Trial, epoch: int) -> None:
        """Take in an epoch of a trial."""
        if trial.state is State.FAIL:
            return
        score = trial.sign * trial.epochs[epoch - 1][trial.metric]
        if score > self._best.get(trial.architecture, (-math.inf, 0))[0]:
            self._best[trial.architecture] = score, trial.number
            self._since.clear()
            self.num_finished, self._leader = 0, trial.number
        elif trial.number != self._leader:
            self._since.add(trial.number)

    def add_end(self, trial: Trial) -> None:
        """Take in the state of a trial."""
        self.num_finished += trial.number in self._since and trial.state in (State.COMPLETE, State.PRUNED)

    def describe_end(self, search: SearchConfig) -> str | None:
        """Return why the search ends, or None."""
        score, number = max(self._best.values(), default=(-math.inf, 0))
        if search.target is not None and score >= search.sign * search.target:
            return f"trial {number} reached search.target = {search.target:g}"
        if search.patience_trials is not None and self.num_finished >= search.patience_trials:
            return f"no better value came in {search.patience_trials} finished trials (search.patience_trials)"
        return None

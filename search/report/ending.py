"""Why a search ended before its last trial, from its record alone."""

from collections.abc import Sequence

from search.config.schema import StudyConfig
from search.record.journal import Journal
from search.record.trial import State, Trial
from search.samplers.candidates import EXHAUSTED, is_exhausted
from search.schedulers.budget import Progress, describe_spent, describe_stop


def describe_ending(config: StudyConfig, trials: Sequence[Trial], journal: Journal) -> str | None:
    """Return what ends the search, or None; hours by the last epoch, or by the reason of trials that ended later."""
    search = config.search
    hours = None if search.max_hours is None else describe_spent(search, 0, search.max_hours * 3600)
    if hours is not None and any(trial.reason == hours for trial in trials):
        return hours
    spent = describe_spent(search, sum(len(trial.epochs) for trial in trials), journal.elapsed_s)
    stopped = describe_stop(search, journal.list_stops())
    if why := stopped or spent or Progress(trials, journal.list_epochs()).describe_end(search):
        return why
    is_idle = len(trials) < search.num_trials and State.RUNNING not in {trial.state for trial in trials}
    return EXHAUSTED if is_idle and is_exhausted(config, trials) else None


def list_ending(config: StudyConfig, trials: Sequence[Trial], journal: Journal) -> list[str]:
    """Return a note if the search ended before its last trial."""
    why = describe_ending(config, trials, journal)
    num_ended = sum(trial.state is not State.RUNNING for trial in trials)
    is_early = num_ended < config.search.num_trials or any(trial.reason == why for trial in trials)
    return [f"The search ended early: {why}."] if why and is_early else []

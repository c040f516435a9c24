"""Why a search ended before its last trial, from its record alone."""

from collections.abc import Sequence
from typing import Any

from search.config.conditions import list_conditions
from search.config.schema import StudyConfig
from search.config.space import build_distributions, find_outside, list_specs
from search.record.journal import Journal
from search.record.trial import State, Trial
from search.samplers.candidates import EXHAUSTED
from search.samplers.repeats import Repeats
from search.schedulers.search_end import Progress, count_elapsed, describe_spent, describe_stop


def describe_ending(config: StudyConfig, trials: Sequence[Trial], journal: Journal) -> str | None:
    """Return why the search ended, or None."""
    search, elapsed_s = config.search, count_elapsed(config.search, trials, journal.elapsed_s)
    spent = describe_spent(search, sum(len(trial.epochs) for trial in trials), elapsed_s)
    stopped = describe_stop(search, journal.list_stops())
    if why := stopped or spent or Progress(trials, journal.list_epochs()).describe_end(search):
        return why
    is_idle = len(trials) < search.num_trials and State.RUNNING not in {trial.state for trial in trials}
    return EXHAUSTED if is_idle and _is_exhausted(config, trials) else None


def list_ending(config: StudyConfig, trials: Sequence[Trial], journal: Journal) -> list[str]:
    """Return a note if the search ended before its last trial."""
    why = describe_ending(config, trials, journal)
    num_ended = sum(trial.state is not State.RUNNING for trial in trials)
    is_early = num_ended < config.search.num_trials or any(trial.reason == why for trial in trials)
    return [f"The search ended early: {why}."] if why and is_early else []


def _is_exhausted(config: StudyConfig, trials: Sequence[Trial]) -> bool:
    """Return whether every configuration of the space was a trial, as far as the code that the space names is known."""
    for name in config.search.architectures if not config.search.repeat else ():
        specs = list_specs(config.space, name)
        repeats = Repeats(name, build_distributions(specs, name), list_conditions(specs), config.data.size)
        inside: dict[str, Any] | None = None
        for trial in trials:
            if trial.architecture == name:
                repeats.add(trial.params)
                inside = trial.params if find_outside(specs, name, trial.params) is None else inside
        if inside is None or repeats.avoid(inside, 0) is not None:
            return False
    return not config.search.repeat

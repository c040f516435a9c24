"""Shares of the architectures in a search: which architecture does the next trial train?

`search.divide` names what is shared: the number of trials, the epochs trained, or the device-seconds of training; with
`value`, the number of trials among the architectures that may still win. The answer depends on the journal alone, so a
resumed search gives the same answer as the killed one would have given.

A running trial counts as much as its architecture's average trial, or as its own use so far if that is more. So not all
concurrent trials go to one architecture. A failed trial counts the same way, so an architecture that always fails does
not get all remaining trials.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Container, Mapping, Sequence

from search.config.schema import StudyConfig
from search.record.trial import State, Trial
from trainables.errors import InputError
from trainables.names import shorten

FINISHED = (State.COMPLETE, State.PRUNED)
COUNTED = ("trials", "value")
"""Values of `search.divide` that divide a number of trials."""


def choose_architecture(config: StudyConfig, trials: Sequence[Trial], among: Container[str] | None = None) -> str:
    """Return the architecture of the next trial; those with fewer than `search.min_trials` trials come first.

    `among` are the architectures that have a configuration left; None is all.
    """
    shares = {name: share for name, share in list_shares(config).items() if among is None or name in among}
    counts = Counter(trial.architecture for trial in trials)
    short = {name: share for name, share in shares.items() if counts[name] < config.search.min_trials}
    if not short and config.search.divide == "value":
        from search.samplers.rising import list_contenders

        scores = {name: list_scores(trials, name) for name in shares}
        able = list_contenders(scores, left=max(config.search.num_trials - len(trials), 0))
        shares = {name: share for name, share in shares.items() if name in able}
    if short or config.search.divide in COUNTED:
        return find_furthest_behind(counts, short or shares)
    used, typical = measure_use(config, trials)
    return find_furthest_behind(used, shares, step=typical)


def list_scores(trials: Sequence[Trial], architecture: str) -> list[float]:
    """Return the scores of an architecture's finished trials."""
    return [trial.score for trial in trials if trial.architecture == architecture and trial.state in FINISHED]


def find_furthest_behind(used: Mapping[str, float], shares: Mapping[str, float], *, step: float = 1.0) -> str:
    """Return the architecture that is furthest behind its share; of several, the first.

    Args:
        used: Trials, epochs or seconds that each architecture has used.
        shares: Weight of each architecture, above 0.
        step: What one more trial uses on average.
    """
    due = sum(used.get(name, 0) for name in shares) + step
    total = sum(shares.values())
    return max(shares, key=lambda name: shares[name] / total * due - used.get(name, 0))


def measure_use(config: StudyConfig, trials: Sequence[Trial]) -> tuple[dict[str, float], float]:
    """Return what each architecture has used, and what a trial of any architecture uses on average.

    How running and failed trials count is in this module's docstring.
    """
    amounts: dict[str, list[float]] = {name: [] for name in list_shares(config)}
    for trial in trials:
        if trial.architecture in amounts and trial.state in FINISHED:
            amounts[trial.architecture].append(measure_trial(config, trial))
    ended = list(itertools.chain.from_iterable(amounts.values()))
    typical = statistics.fmean(ended) if ended else 1.0
    means = {name: statistics.fmean(own) if own else typical for name, own in amounts.items()}
    used = {name: sum(own) for name, own in amounts.items()}
    for trial in trials:
        if trial.architecture in used and trial.state not in FINISHED:
            used[trial.architecture] += max(measure_trial(config, trial), means[trial.architecture])
    return used, typical


def measure_trial(config: StudyConfig, trial: Trial) -> float:
    """Return what a trial has used, in the unit of `search.divide`."""
    if config.search.divide in COUNTED:
        return 1.0
    return float(len(trial.epochs)) if config.search.divide == "epochs" else measure_seconds(config, trial)


def measure_seconds(config: StudyConfig, trial: Trial) -> float:
    """Return a trial's seconds of training, multiplied by its GPUs, or by its CPUs if an architecture has no GPU."""
    granted = config.get_resources(trial.architecture)
    width = granted.cpus if name_device(config) == "CPU" else granted.gpus
    return width * sum(metrics.get("seconds", 0.0) for metrics in trial.epochs)


def name_device(config: StudyConfig) -> str:
    """Return the device of device-seconds: GPU if every architecture is granted a part of one, else CPU."""
    has_gpus = all(config.get_resources(name).gpus > 0 for name in config.search.architectures)
    return "GPU" if has_gpus else "CPU"


def list_shares(config: StudyConfig) -> dict[str, float]:
    """Return the weight of each architecture that is searched."""
    search = config.search
    return {name: (search.shares or {}).get(shorten(name), 1.0) for name in search.architectures}


def check_shares(config: StudyConfig) -> None:
    """Check that every architecture gets `search.min_trials` trials.

    Raises:
        InputError: If an architecture would get fewer.
    """
    search, shares = config.search, list_shares(config)
    first = [recipe.architecture for recipe in config.recipes if recipe.architecture in shares][: search.num_trials]
    counts: dict[str, int] = {**dict.fromkeys(shares, 0), **Counter(first)}
    while sum(counts.values()) < search.num_trials:
        short = {name: share for name, share in shares.items() if counts[name] < search.min_trials}
        if not short:
            break
        counts[find_furthest_behind(counts, short)] += 1
    if missing := [name for name in shares if counts[name] < search.min_trials]:
        fewer = "without a trial" if search.min_trials == 1 else f"with fewer than {search.min_trials} trials"
        raise InputError(
            f"search.num_trials = {search.num_trials} leaves {', '.join(missing)} {fewer}: raise it, or change "
            "search.min_trials, search.first or search.architectures"
        )

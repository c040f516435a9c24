"""How architectures share a search: who gets the next trial, decided from the record alone.

The shares divide the number of trials, the epochs trained, or the time on the device. With the last two a trial that
is under way counts as much as its architecture's trials do on average, or as it has used if that is more, so that
trials side by side do not all go to one; so does one that failed, so that an architecture that fails is not tried for
ever. The amounts depend on what was stopped and, for seconds, on the machine; since both are in the record, a resumed
search decides on what the killed one knew.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from search.config.schema import StudyConfig
from search.record.trial import State, Trial
from trainables.errors import InputError

FINISHED = (State.COMPLETE, State.PRUNED)


def choose_next(config: StudyConfig, trials: Sequence[Trial]) -> str:
    """Return the architecture of the next trial; whoever has fewer than `search.min_trials` comes first."""
    shares = list_shares(config)
    counts = Counter(trial.architecture for trial in trials)
    short = {name: share for name, share in shares.items() if counts[name] < config.search.min_trials}
    if short or config.search.divide == "trials":
        return choose_architecture(counts, short or shares)
    used, typical = measure_use(config, trials)
    return choose_architecture(used, shares, step=typical)


def choose_architecture(used: Mapping[str, float], shares: Mapping[str, float], *, step: float = 1.0) -> str:
    """Return the architecture that is furthest behind its share; the first named wins a tie.

    Args:
        used: What each has used so far: trials, epochs or seconds.
        shares: Weights, by architecture, above 0.
        step: What one more trial uses.
    """
    due = sum(used.get(name, 0) for name in shares) + step
    total = sum(shares.values())
    return max(shares, key=lambda name: shares[name] / total * due - used.get(name, 0))


def measure_use(config: StudyConfig, trials: Sequence[Trial]) -> tuple[dict[str, float], float]:
    """Return the epochs or device-seconds by architecture, unfinished and failed trials as the module says.

    Returns:
        The amounts, and what a trial of any architecture uses on average.
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
    """Return what a trial has used, in the unit that the study divides."""
    if config.search.divide == "trials":
        return 1.0
    return float(len(trial.epochs)) if config.search.divide == "epochs" else measure_seconds(config, trial)


def measure_seconds(config: StudyConfig, trial: Trial) -> float:
    """Return a trial's seconds of training times the GPUs it was granted, or the CPUs where some have no GPU."""
    granted = config.get_resources(trial.architecture)
    width = granted.cpus if name_device(config) == "CPU" else granted.gpus
    return width * sum(metrics.get("seconds", 0.0) for metrics in trial.epochs)


def name_device(config: StudyConfig) -> str:
    """Return what device-seconds are counted of: GPU if every architecture is granted some, else CPU."""
    has_gpus = all(config.get_resources(name).gpus > 0 for name in config.search.architectures)
    return "GPU" if has_gpus else "CPU"


def list_shares(config: StudyConfig) -> dict[str, float]:
    """Return the weight of each architecture that is searched."""
    search = config.search
    return {name: (search.shares or {}).get(name, 1.0) for name in search.architectures}


def check_shares(config: StudyConfig) -> None:
    """Check that every architecture gets `search.min_trials` trials.

    Raises:
        InputError: If one would get fewer.
    """
    search, shares = config.search, list_shares(config)
    first = [recipe.architecture for recipe in config.recipes if recipe.architecture in shares][: search.num_trials]
    counts: dict[str, int] = {**dict.fromkeys(shares, 0), **Counter(first)}
    while sum(counts.values()) < search.num_trials:
        short = {name: share for name, share in shares.items() if counts[name] < search.min_trials}
        if not short:
            break
        counts[choose_architecture(counts, short)] += 1
    if missing := [name for name in shares if counts[name] < search.min_trials]:
        fewer = "without a trial" if search.min_trials == 1 else f"with fewer than {search.min_trials} trials"
        raise InputError(
            f"search.num_trials = {search.num_trials} leaves {', '.join(missing)} {fewer}: raise it, or change "
            "search.min_trials, search.first or search.architectures"
        )


def describe_division(config: StudyConfig, trials: Sequence[Trial]) -> str:
    """Return in a sentence how the search was divided and what each architecture got."""
    search, shares = config.search, list_shares(config)
    device = name_device(config)
    what = {"trials": "number of trials", "epochs": "epochs trained", "seconds": f"{device}-seconds of training"}
    weights = " to ".join(f"{share:g}" for share in shares.values())
    got = []
    for name in shares:
        mine = [trial for trial in trials if trial.architecture == name]
        epochs = sum(len(trial.epochs) for trial in mine)
        seconds = sum(measure_seconds(config, trial) for trial in mine)
        got.append(f"{name} got {len(mine)} trials, {epochs:,} epochs, {seconds:,.0f} {device}-seconds")
    return f"The search divided the {what[search.divide]} {weights} among {', '.join(shares)}: {'; '.join(got)}."

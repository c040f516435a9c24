"""Cost and result of the search for each architecture: a pure function of config and trials."""

import dataclasses
import statistics
from collections.abc import Sequence

from search.config.schema import StudyConfig
from search.evaluation.choices import is_finished
from search.record.trial import State, Trial
from search.report.cells import format_amount, format_metric
from search.report.history import build_study, explain_missing, measure_importance
from search.samplers.shares import measure_seconds
from trainables.config import list_defaults
from trainables.names import is_own


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchSummary:
    """Cost and result of one architecture's trials."""

    architecture: str
    trials: int
    failed: int
    """Number of trials in state FAIL."""
    stopped: float
    """Share of the trials that were stopped before their last epoch, failed ones not counted, in [0, 1]."""
    epochs: int
    seconds: float
    """Seconds summed over the trials, which ran in parallel."""
    device_seconds: float
    """Seconds times the granted GPUs or CPUs."""
    full_epochs: int
    """Epochs of the same trials if none had been stopped."""
    full_seconds: float
    """Seconds of these epochs, at each trial's own seconds per epoch."""
    best: float | None
    """Best value of the validation metric in a finished trial."""
    paper: float | None
    """Best value of the paper's configuration, if it was tried."""
    paper_epochs: int | None
    """Epochs of that trial if it was stopped before its last one."""
    importance: dict[str, float]
    """Importance of each searched parameter, largest first; empty with too few trials."""
    missing: str | None
    """Why there is no importance; None if there is one."""


def summarize_search(config: StudyConfig, trials: Sequence[Trial]) -> list[SearchSummary]:
    """Return a summary of each architecture that has a trial."""
    tried = {trial.architecture for trial in trials}
    return [_summarize(config, trials, name) for name in list_architectures(config, trials) if name in tried]


def list_architectures(config: StudyConfig, trials: Sequence[Trial]) -> list[str]:
    """Return the architectures of a study, then those that were searched before it was changed."""
    tried = (trial.architecture for trial in trials if not trial.is_foreign)
    return list(dict.fromkeys([*config.search.architectures, *tried]))


def find_paper_trial(trials: Sequence[Trial], architecture: str) -> Trial | None:
    """Return the first finished trial of the paper's configuration, from any weights."""
    if is_own(architecture):
        return None
    wanted = list_defaults(architecture) | {"weights": None}
    for trial in trials:
        params = list_defaults(architecture) | trial.params if trial.architecture == architecture else {}
        if is_finished(trial) and params | {"weights": None} == wanted:
            return trial
    return None


def format_paper(search: SearchSummary, metric: str) -> str:
    """Return the value of the paper's configuration, with its epochs if it was stopped; an empty cell if not tried."""
    stopped = "" if search.paper_epochs is None else f" (stopped, {format_amount(search.paper_epochs, 'epoch')})"
    return format_metric(search.paper, metric) + stopped


def _summarize(config: StudyConfig, trials: Sequence[Trial], architecture: str) -> SearchSummary:
    mine = [trial for trial in trials if trial.architecture == architecture]
    able = [trial for trial in mine if trial.state is not State.FAIL]
    finished = [trial for trial in mine if is_finished(trial)]
    paper = find_paper_trial(mine, architecture)
    seconds = {trial.number: [metrics.get("seconds", 0.0) for metrics in trial.epochs] for trial in mine}
    lost = [trial for trial in mine if trial.state is State.FAIL]
    whole = config.search.count_epochs(architecture)
    study = build_study(config, trials, architecture)
    full_seconds = sum(statistics.fmean(seconds[trial.number]) for trial in able if trial.epochs)
    return SearchSummary(
        architecture=architecture,
        trials=len(mine),
        failed=len(lost),
        stopped=sum(trial.state is State.PRUNED for trial in able) / len(able) if able else 0.0,
        epochs=sum(len(trial.epochs) for trial in mine),
        seconds=sum(map(sum, seconds.values())),
        device_seconds=sum(measure_seconds(config, trial) for trial in mine),
        full_epochs=len(able) * whole + sum(len(trial.epochs) for trial in lost),
        full_seconds=full_seconds * whole + sum(sum(seconds[trial.number]) for trial in lost),
        best=max(finished, key=lambda trial: trial.score).get_peak()[0] if finished else None,
        paper=paper.get_peak()[0] if paper else None,
        paper_epochs=len(paper.epochs) if paper and paper.state is State.PRUNED else None,
        importance=measure_importance(study),
        missing=explain_missing(study),
    )

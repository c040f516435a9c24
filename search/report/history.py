"""A study's trials as Optuna studies in memory, for parameter importance and Optuna's plots."""

import dataclasses
import html
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.conditions import list_conditions, select
from search.config.printable import escape
from search.config.schema import StudyConfig
from search.config.space import Choice, build_distributions, list_specs
from search.record.trial import State, Trial

NUM_BEST = 5
"""Importance compares the best tenth of the trials, at least this number. Source: Optuna's advice for PED-ANOVA."""
MIN_TRIALS = 2 * NUM_BEST
"""Smallest number of trials for which importance is computed."""


def build_study(config: StudyConfig, trials: Sequence[Trial], architecture: str) -> optuna.Study:
    """Return one architecture's trials as an Optuna study; the user attribute `trial` has their numbers in the search.

    Stopped trials count as complete, with the value of their best epoch: Optuna's importance and most of its plots
    leave out PRUNED trials, which are most of the bad ones. Trials outside the present space are left out.
    """
    specs = {
        name: dataclasses.replace(spec, choice=tuple(map(_escape, spec.choice))) if isinstance(spec, Choice) else spec
        for name, spec in list_specs(config.space, architecture).items()
    }
    distributions = build_distributions(specs, architecture)
    conditions = list_conditions(specs)
    study = _create_study(config.search.sign)
    for trial in (trial for trial in trials if trial.architecture == architecture):
        if (frozen := _freeze(trial, select(distributions, conditions, trial.params))) is not None:
            if frozen.state is TrialState.PRUNED:
                frozen.state = TrialState.COMPLETE
            study.add_trial(frozen)
    return study


def build_timeline(trials: Sequence[Trial]) -> optuna.Study:
    """Return all trials that have times as an Optuna study without parameters."""
    study = _create_study()
    for trial in trials:
        if trial.started is not None and (frozen := _freeze(trial, {})) is not None:
            study.add_trial(frozen)
    return study


def measure_importance(study: optuna.Study) -> dict[str, float]:
    """Return each searched parameter's share in the difference between the best trials and all trials, largest first.

    A parameter with a condition is judged by the trials that have it, weighted by the share of the best trials that do.

    Args:
        study: From `build_study`.

    Returns:
        Shares that sum to 1; empty with fewer than MIN_TRIALS values, or if all values are equal.

    Source: Watanabe et al. 2023, PED-ANOVA (arXiv:2304.10255), and its extension to conditional parameters
    (arXiv:2601.20800), as Optuna implements them.
    """
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < MIN_TRIALS or len(set(values)) == 1:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, NUM_BEST / len(values)))
    with warnings.catch_warnings(action="ignore"):  # if only one trial has a parameter, or lacks it
        shares = get_param_importances(study, evaluator=evaluator)
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def explain_missing(study: optuna.Study) -> str | None:
    """Return why a study has no importance, or None."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not any(trial.params for trial in trials):
        return "Importance needs trials with searched parameters." if trials else None
    if (missing := MIN_TRIALS - len(trials)) > 0:
        return f"Importance needs {MIN_TRIALS} trials with a value, {missing} more than these {len(trials)}."
    is_equal = len({trial.value for trial in trials}) == 1
    return "All trials have the same value, so no parameter is more important than another." if is_equal else None


def _create_study(sign: int = 1) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="minimize" if sign < 0 else "maximize")


def _escape(value: Any) -> Any:
    """Return a value whose text plotly shows literally, although its labels are a subset of HTML."""
    return html.escape(escape(value), quote=False) if isinstance(value, str) else value


def _freeze(trial: Trial, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial | None:
    try:
        frozen = create_trial(
            state=TrialState[trial.state],
            value=trial.get_peak()[0] if trial.state in (State.COMPLETE, State.PRUNED) else None,
            params={name: _escape(trial.params[name]) for name in distributions},
            distributions=dict(distributions),
            user_attrs={"trial": trial.number, "architecture": _escape(trial.architecture)},
            intermediate_values=dict(enumerate(trial.list_values(), start=1)),
        )
    except (ValueError, KeyError, TypeError):
        return None
    frozen.datetime_start = trial.started or frozen.datetime_start
    frozen.datetime_complete = trial.ended or frozen.datetime_complete
    return frozen

"""Figures of the models on changed test images, by perturbation: pure functions of the result."""

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from search.evaluation.bootstrap import Interval, bound, resample_rights
from search.evaluation.result import Result, TestedModel
from search.evaluation.statistics import call_positive

METRICS = ("accuracy", "recall_fake", "recall")
"""Metrics that count right images: of all images, of label 0, of label 1."""
UNCHANGED = "unchanged"
"""Name of the plain test."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure over the seeds of a configuration, or a difference of two."""

    mean: float
    deviation: float
    """Sample standard deviation over the seeds; NaN for one seed, and for a difference."""
    interval: Interval
    """95 % interval over test images."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """The figures of a configuration on one kind of test images."""

    model: str
    """Name of the configuration, as the comparison has it."""
    perturbation: str
    """UNCHANGED, or one of search.config.fields.PERTURBATIONS."""
    seeds: int
    metrics: Mapping[str, Estimate]
    """Name in METRICS -> figure."""
    changes: Mapping[str, Estimate]
    """Name in METRICS -> figure minus that on unchanged images, paired by image."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessDifference:
    """The differences of two architectures on one kind of test images."""

    first: str
    second: str
    perturbation: str
    metrics: Mapping[str, Estimate]
    """Name in METRICS -> figure of the first minus that of the second, paired by image."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    values: Mapping[str, list[float]]
    """Metric -> value of each seed."""
    drawn: Mapping[str, NDArray[np.float64]]
    """Metric -> mean over the seeds in each resample."""


def measure_robustness(result: Result) -> list[Robustness]:
    """Return the figures of winners and baselines that were scored on every perturbation; the unchanged images first.

    Empty without perturbations.
    """
    scores = _score(result)
    return [
        Robustness(
            model=model,
            perturbation=name,
            seeds=len(score.values["accuracy"]),
            metrics=_estimate(score),
            changes=_subtract(score, scores[model, UNCHANGED]),
        )
        for (model, name), score in scores.items()
    ]


def compare_robustness(result: Result) -> list[RobustnessDifference]:
    """Compare every two architectures on each kind of test images."""
    scores = _score(result)
    names = dict.fromkeys(name for _, name in scores)
    return [
        RobustnessDifference(
            first=first, second=second, perturbation=name, metrics=_subtract(scores[first, name], scores[second, name])
        )
        for first, second in itertools.combinations(result.winners, 2)
        for name in names
        if (first, name) in scores and (second, name) in scores
    ]


@functools.lru_cache(maxsize=1)
def _score(result: Result) -> dict[tuple[str, str], _Score]:
    """Score each configuration on each kind of test images; cached, since tables, charts and a file need it."""
    changed = {each.name: each.predictions for each in result.further if each.kind == "perturbation"}
    keys = {(name, 1): name for name in result.winners} | result.baselines
    rights: dict[tuple[str, str], list[NDArray[np.bool_]]] = {}
    for key, configuration in keys.items():
        own = result.groups.get(key, [])
        scored = [model for model in own if all(model.label in each for each in changed.values())]
        for name, predictions in {UNCHANGED: result.predictions, **changed}.items() if changed and scored else ():
            rights[configuration, name] = [_find_right(result, predictions, model) for model in scored]
    if not rights:
        return {}
    shares = np.stack([np.mean(each, axis=0) for each in rights.values()], axis=1)
    drawn = resample_rights(result.labels, shares)
    return {
        key: _Score(
            values={metric: [_count(result, metric, right) for right in each] for metric in METRICS},
            drawn={metric: drawn[metric][:, place] for metric in METRICS},
        )
        for place, (key, each) in enumerate(rights.items())
    }


def _find_right(
    result: Result, predictions: Mapping[str, NDArray[np.float32]], model: TestedModel
) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = call_positive(predictions[model.label], model.threshold) == (result.labels == 1)
    return right


def _count(result: Result, metric: str, right: NDArray[np.bool_]) -> float:
    label = {"recall_fake": 0, "recall": 1}.get(metric)
    return float(right.mean() if label is None else right[result.labels == label].mean())


def _estimate(score: _Score) -> dict[str, Estimate]:
    return {
        metric: Estimate(
            mean=statistics.fmean(values),
            deviation=statistics.stdev(values) if len(values) > 1 else float("nan"),
            interval=bound(score.drawn[metric]),
        )
        for metric, values in score.values.items()
    }


def _subtract(first: _Score, second: _Score) -> dict[str, Estimate]:
    return {
        metric: Estimate(
            mean=statistics.fmean(first.values[metric]) - statistics.fmean(second.values[metric]),
            deviation=float("nan"),
            interval=bound(first.drawn[metric] - second.drawn[metric]),
        )
        for metric in METRICS
    }

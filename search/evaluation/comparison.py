"""The figures of a result: means over seeds, intervals over test images, differences; pure functions of the result."""

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.evaluation.bootstrap import Interval, bound, resample
from search.evaluation.result import Key, Result, TestedModel
from search.evaluation.statistics import Pairing, Predictions, compare_pair, score_probabilities

METRICS = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1", "auroc": "AUROC"}
"""Compared metrics with their headings, of the positive class."""
DETAILS = {
    "precision_fake": "Precision of {negative}",
    "recall_fake": "Recall of {negative}",
    "f1_fake": "F1 of {negative}",
    "average_precision": "Average precision",
    "brier": "Brier score",
    "ece": "Calibration error",
}
"""Further metrics of our models; `negative` is the class with label 0."""
UNCALIBRATED = {"ece_uncalibrated": "Calibration error without the temperature"}
"""Metric of models whose temperature is not 1, which is shown only if there are such models."""
COSTS = ("macs", "training_seconds", "images_per_second_1", "images_per_second_256", "peak_memory_bytes")
ENDS = ("", "_std", "_low", "_high")
"""Suffixes of a metric's columns: mean, deviation over seeds, 95 % interval over test images (not for `ece`)."""
TEXTS, COUNTS = ("model", "source", "protocol"), ("seeds", "parameters")
COLUMNS = (*TEXTS, "seeds", *(name + end for name in (*METRICS, *DETAILS) for end in ENDS), "parameters", *COSTS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The difference between two configurations."""

    first: str
    second: str
    metrics: dict[str, tuple[float, Interval]]
    """Name in METRICS -> mean of the first minus mean of the second, with its interval."""
    pairings: dict[int, Pairing]
    """Seed -> McNemar's test between the two models of that seed."""


def summarize(result: Result) -> pd.DataFrame:
    """Compare each architecture's best configuration with its ensemble, baselines, the front and published results.

    Returns:
        COLUMNS. Metrics are in [0, 1]: means over the seeds, their sample standard deviations, and 95 % intervals
        over test images. Costs are means over the seeds. Unknown values are empty.
    """
    distributions, others, groups = _resample(result), result.baselines | result.front, result.groups
    rows = [
        _summarize_seeds(name, models) | _bound_all(distributions[name, 1]) for name, models in result.winners.items()
    ]
    rows += _summarize_ensembles(result)
    rows += [
        _summarize_seeds(name, groups[key])
        | _bound_all(distributions[key])
        | {"source": "front" if key in result.front else "baseline"}
        for key, name in others.items()
        if key in groups
    ]
    for published in result.config.published.models:
        known = {"model": published.model, "source": "published", "protocol": published.protocol}
        rows.append(known | {"parameters": published.parameters} | dict(published.metrics))
    return _build_frame(rows)


def summarize_lower(result: Result) -> pd.DataFrame:
    """Return COLUMNS of the configurations that ranked lower on validation, without intervals."""
    lower = [
        (f"{key[0]}, rank {key[1]}", models)
        for key, models in result.groups.items()
        if key[1] > 1 and key not in result.baselines | result.front
    ]
    return _build_frame([_summarize_seeds(name, models) for name, models in lower])


def list_details(result: Result) -> dict[str, str]:
    """Return the metrics of our models with their headings."""
    shown = summarize(result).columns
    return METRICS | DETAILS | {name: heading for name, heading in UNCALIBRATED.items() if name in shown}


def list_differences(result: Result) -> list[Difference]:
    """Compare every two architectures, in the order of the table, and each with its baselines."""
    groups = result.groups
    names = {(name, 1): name for name in result.winners} | result.baselines
    pairs = list(itertools.combinations([(name, 1) for name in result.winners], 2))
    pairs += [((key[0], 1), key) for key in result.baselines if key in groups and (key[0], 1) in groups]
    return [_compare(result, names, first, second) for first, second in pairs]


def _compare(result: Result, names: Mapping[Key, str], first: Key, second: Key) -> Difference:
    groups, distributions = result.groups, _resample(result)
    metrics = {}
    for name in METRICS:
        difference = _mean(groups[first], name) - _mean(groups[second], name)
        metrics[name] = difference, bound(distributions[first][name] - distributions[second][name])
    others = {model.seed: model for model in groups[second]}
    pairings = {
        model.seed: compare_pair(result.labels, _predict(result, model), _predict(result, others[model.seed]))
        for model in groups[first]
        if model.seed in others
    }
    return Difference(first=names[first], second=names[second], metrics=metrics, pairings=pairings)


@functools.lru_cache(maxsize=1)
def _resample(result: Result) -> dict[Key, dict[str, NDArray[np.float64]]]:
    """Resample the metrics of our models; cached, since every table needs it and it takes seconds."""
    return {
        key: resample(result.labels, [_predict(result, model) for model in models])
        for key, models in result.groups.items()
        if key[1] == 1 or key in result.baselines | result.front
    }


def _predict(result: Result, model: TestedModel) -> tuple[NDArray[np.float32], float]:
    return result.predictions[model.label], model.threshold


def _bound_all(distributions: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    bounds = {name: bound(distribution) for name, distribution in distributions.items()}
    lows = {f"{name}_low": interval.low for name, interval in bounds.items()}
    return lows | {f"{name}_high": interval.high for name, interval in bounds.items()}


def _summarize_seeds(name: str, models: Sequence[TestedModel]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, "source": "this study", "protocol": "sealed"}
    row |= {"seeds": len(models), "parameters": models[0].parameters}
    for metric in (*METRICS, *DETAILS, *UNCALIBRATED):
        values = [tested.metrics[metric] for tested in models if metric in tested.metrics]
        row[metric] = statistics.fmean(values) if values else None
        row[f"{metric}_std"] = statistics.stdev(values) if len(values) > 1 else None
    for cost in COSTS:
        known = [tested.cost[cost] for tested in models if cost in tested.cost]
        row[cost] = statistics.fmean(known) if known else None
    return row


@functools.lru_cache(maxsize=1)
def _summarize_ensembles(result: Result) -> list[dict[str, Any]]:
    """Return a row for the mean probability over the seeds of each winner that has several; cached like `_resample`.

    An ensemble is one model, so it has no seeds and no deviation over them. Its cost is the sum over its models, which
    are trained and run one after the other.
    """
    rows = []
    for name, models in result.winners.items():
        if len(models) < 2:
            continue
        probabilities = np.stack([result.predictions[model.label] for model in models])
        mean: Predictions = np.asarray(probabilities.mean(axis=0, dtype=np.float64), np.float32), models[0].threshold
        row = {"model": f"{name}, {len(models)} seeds averaged", "source": "ensemble", "protocol": "sealed"}
        row |= score_probabilities(result.labels, *mean)["metrics"] | _bound_all(resample(result.labels, [mean]))
        rows.append(row | {"parameters": sum(model.parameters for model in models)} | _add_costs(models))
    return rows


def _add_costs(models: Sequence[TestedModel]) -> dict[str, float]:
    """Return the costs of models that run one after the other; a cost that one model lacks is missing."""
    known = {
        name: [model.cost[name] for model in models] for name in COSTS if all(name in each.cost for each in models)
    }
    return {name: _add(name, values) for name, values in known.items()}


def _add(name: str, values: Sequence[float]) -> float:
    if name.startswith("images_per_second"):
        return 1 / sum(1 / value for value in values)
    return max(values) if name == "peak_memory_bytes" else sum(values)


def _mean(models: Sequence[TestedModel], metric: str) -> float:
    return statistics.fmean(tested.metrics[metric] for tested in models)


def _build_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    extra = [
        name + end
        for name in UNCALIBRATED
        if any(name in row and row[name] is not None for row in rows)
        for end in ENDS
    ]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *extra])
    types = {name: "Int64" if name in COUNTS else "float64" for name in frame.columns if name not in TEXTS}
    return frame.astype(types)

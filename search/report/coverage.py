"""How much a model answers at a confidence, and how often it is right: pure functions of the stored predictions."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.evaluation.calibration import TEMPERATURES, is_sure
from search.evaluation.result import Result, TestedModel
from search.evaluation.statistics import call_positive
from search.report.cells import Table, format_percent, format_rank
from search.report.schedules import is_failed, is_left_out

CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Confidences in the rows of the table."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The answers of one model at a confidence."""

    share: float
    """Share of the test images for which a class has the confidence, in [0, 1]."""
    accuracy: float | None
    """Share of right answers among these; None if there are none."""


def measure_coverage(result: Result, model: TestedModel, confidence: float) -> Coverage:
    """Return for which share of the test images a model reaches a confidence, and how often it is right on these."""
    probabilities = result.predictions[model.label]
    sure = is_sure(probabilities, confidence)
    right = call_positive(probabilities, model.threshold) == (result.labels == 1)
    return Coverage(share=float(sure.mean()), accuracy=float(right[sure].mean()) if sure.any() else None)


def tabulate_coverage(result: Result) -> list[Table]:
    """Return a table of coverage and accuracy by confidence, with two columns for each winner."""
    groups = _list_groups(result)
    rows = [
        [str(confidence), *(cell for models in groups.values() for cell in _describe(result, models, confidence))]
        for confidence in CONFIDENCES
    ]
    header = ["Confidence", *(f"{name}, {what}" for name in groups for what in ("answered", "right of these"))]
    title = "Answers with at least a confidence (predict --abstain), on the test split, in percent"
    return [Table(title=title, header=header, rows=rows)] if groups else []


def trace_coverage(result: Result) -> dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Return winner -> coverage and accuracy of each model, from its most confident image to all images."""
    return {name: [_trace(result, model) for model in models] for name, models in _list_groups(result).items()}


def describe_temperatures(choices: Mapping[str, Any], models: Sequence[TestedModel]) -> list[str]:
    """Return a note about the temperatures, if any is not 1."""
    left_out = {
        (each["architecture"], each["rank"])
        for each in choices.get("winners", ())
        if is_failed(each) or is_left_out(choices, each)
    }
    known = {(model.architecture, model.rank): model.temperature for model in models}
    if all(temperature == 1.0 for temperature in known.values()):
        return []
    is_fitted = choices.get("temperature") == "validation"
    origin = "fitted on validation by a training on train alone" if is_fitted else "that evaluation.temperature sets"
    others = is_fitted and choices.get("threshold") != "validation"
    temperatures = {
        key: value for key, value in known.items() if not others or (key[1] <= choices["top_k"] and key not in left_out)
    }
    told = ", ".join(f"{name}{format_rank(rank)} {value:.4f}" for (name, rank), value in temperatures.items())
    notes = [f"A probability is the sigmoid of the logit divided by a temperature {origin}: {told}."]
    if len(temperatures) < len(known):
        notes[0] += " Other models have none, so compare their calibration with that of these without the temperature."
    if is_fitted and set(TEMPERATURES) & set(temperatures.values()):
        low, high = TEMPERATURES
        notes.append(f"A temperature of {low} or {high} is a bound: validation alone would give a more extreme one.")
    return notes


def _list_groups(result: Result) -> dict[str, list[TestedModel]]:
    """Return the models of each winner that have predictions."""
    groups = {
        name: [model for model in models if model.label in result.predictions]
        for name, models in result.winners.items()
    }
    return {name: models for name, models in groups.items() if models}


def _describe(result: Result, models: Sequence[TestedModel], confidence: float) -> tuple[str, str]:
    found = [measure_coverage(result, model, confidence) for model in models]
    known = [each.accuracy for each in found if each.accuracy is not None]
    return _average([each.share for each in found]), _average(known)


def _average(values: Sequence[float]) -> str:
    if not values:
        return ""
    return format_percent(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else float("nan"))


def _trace(result: Result, model: TestedModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    probabilities = result.predictions[model.label]
    right = call_positive(probabilities, model.threshold) == (result.labels == 1)
    surest = np.argsort(-np.abs(probabilities.astype(np.float64) - 0.5), kind="stable")
    counts = np.arange(1, len(surest) + 1)
    return counts / len(surest), np.cumsum(right[surest]) / counts

"""The models on images of other sources: a table, rows for a file, and notes; pure functions of the result."""

import csv
import functools
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.config.printable import defuse, escape
from search.evaluation.bootstrap import bound, resample, resample_class
from search.evaluation.result import FurtherResult, Result, TestedModel
from search.evaluation.statistics import call_positive, measure
from search.report.cells import Table, format_count, format_interval, format_percent
from trainables.errors import InputError

METRICS = {
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "recall_fake": "Recall of {negative}",
    "recall": "Recall of {positive}",
    "ece": "Calibration error",
    "probability": "Mean probability of {positive}",
}
"""Metrics with their headings. A source of one class has only its recall and the mean probability."""
ENDS = ("", "_std", "_low", "_high")
"""Suffixes of a metric's columns: mean, deviation over seeds, 95 % interval over images (not for `ece`)."""
COUNTS = ("images_fake", "images_real", "copies", "alike", "seeds")
COLUMNS = ("model", "source", *COUNTS, *(name + end for name in METRICS for end in ENDS))


@functools.lru_cache(maxsize=1)
def summarize_sources(result: Result) -> list[dict[str, Any]]:
    """Return a row for each source and model of the comparison, with the COLUMNS that are known.

    Metrics are in [0, 1]. Resampling takes seconds.
    """
    chosen = {source["name"]: source for source in result.choices.get("sources", ())}
    named = {(name, 1): name for name in result.winners} | result.baselines | result.front
    rows = []
    for found in result.further:
        for key, name in named.items() if found.kind == "source" else ():
            models = [model for model in result.groups.get(key, ()) if model.label in found.predictions]
            if models:
                known = _describe_images(found, chosen[found.name]) | {"seeds": len(models)}
                rows.append({"model": name, "source": found.name, **known, **_measure(found, models)})
    return rows


def tabulate_sources(result: Result) -> list[Table]:
    """Return the table of the sources, or none if no model was scored on one; metrics are in percent."""
    negative, positive = result.classes
    rows = [
        [
            f"{row['model']} on {row['source']}",
            *(format_count(row[f"images_{end}"]) for end in ("fake", "real")),
            f"{row['copies']:,} + {row['alike']:,}",
            *(_format(row, name) for name in METRICS),
        ]
        for row in summarize_sources(result)
    ]
    header = ["Model", negative, positive, "Left out: copies + alike"]
    header += [heading.format(negative=negative, positive=positive) for heading in METRICS.values()]
    title = "On other sources, mean ± deviation over seeds (95 % interval over images), in percent"
    return [Table(title=title, header=header, rows=rows)] if rows else []


def format_sources(result: Result) -> bytes:
    """Return the rows as a CSV file; unknown values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: defuse(value) for name, value in row.items()} for row in summarize_sources(result))
    return text.getvalue().encode()


def describe_sources(result: Result) -> list[str]:
    """Return a note about each source: its images, and those that were left out."""
    negative, positive = map(escape, result.classes)
    return [
        f"{source['name']}: {source['counts'][0]:,} images of {negative} and {source['counts'][1]:,} of {positive}, "
        f"from {source['path']}. Left out: {source['copies']:,} images with the pixels of a training image, and "
        f"{source['alike']:,} that look like one. None has the pixels of a test image."
        for source in result.choices.get("sources", ())
    ]


def _describe_images(found: FurtherResult, chosen: Mapping[str, Any]) -> dict[str, int]:
    """Return how many images a source has, and how many are left out.

    Raises:
        InputError: If other images were scored.
    """
    counts = [int((found.labels == label).sum()) for label in (0, 1)]
    if counts != list(chosen["counts"]):
        raise InputError(f"the models were not scored on the images of {found.name}: evaluate the study again")
    return {"images_fake": counts[0], "images_real": counts[1], "copies": chosen["copies"], "alike": chosen["alike"]}


def _measure(found: FurtherResult, models: Sequence[TestedModel]) -> dict[str, float]:
    """Return the metrics of some models on a source, with deviations and intervals."""
    predictions = [(found.predictions[model.label], model.threshold) for model in models]
    present = np.unique(found.labels).tolist()
    if len(present) == 2:
        values = [measure(found.labels, *each) for each in predictions]
        distributions = resample(found.labels, predictions)
        renamed = {name: name for name in METRICS if name != "probability"}
    else:
        values = [_measure_class(present[0], *each) for each in predictions]
        distributions = resample_class(found.labels, predictions)
        renamed = {"recall": "recall" if present == [1] else "recall_fake", "probability": "probability"}
    row: dict[str, float] = {}
    for name, column in renamed.items():
        mine = [each[name] for each in values]
        row[column] = statistics.fmean(mine)
        if len(mine) > 1:
            row[f"{column}_std"] = statistics.stdev(mine)
        interval = bound(distributions[name]) if name in distributions else None
        if interval and interval.low < interval.high:
            row |= {f"{column}_low": interval.low, f"{column}_high": interval.high}
    return row


def _measure_class(label: int, probabilities: NDArray[np.float32], threshold: float) -> dict[str, float]:
    right = call_positive(probabilities, threshold) == (label == 1)
    return {"recall": float(right.mean()), "probability": float(probabilities.mean(dtype=np.float64))}


def _format(row: dict[str, Any], name: str) -> str:
    mean = format_percent(row.get(name), row.get(f"{name}_std", np.nan))
    interval = format_interval(row.get(f"{name}_low", np.nan), row.get(f"{name}_high", np.nan))
    return f"{mean} ({interval})" if interval else mean

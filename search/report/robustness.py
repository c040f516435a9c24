"""The models on changed test images, as tables, charts and a file: pure functions of the result."""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from search.config.printable import defuse
from search.evaluation.perturbations import describe_perturbation
from search.evaluation.result import Result
from search.evaluation.robustness import (
    METRICS,
    UNCHANGED,
    Estimate,
    Robustness,
    compare_robustness,
    measure_robustness,
)
from search.report import figures
from search.report.cells import Table, format_interval, format_percent

ENDS = ("", "_std", "_low", "_high", "_change", "_change_low", "_change_high")
"""Suffixes of a metric's columns in robustness.csv; a change is the difference to the unchanged images."""
COLUMNS = ("model", "perturbation", "seeds", *(metric + end for metric in METRICS for end in ENDS))


def show_robustness(result: Result) -> dict[str, Any]:
    """Return charts and tables for the page; empty without perturbations."""
    tables = tabulate_robustness(result)
    return {"charts": draw_robustness(result), "tables": tables} if tables else {}


def tabulate_robustness(result: Result) -> list[Table]:
    """Return a table for each configuration and for each pair of architectures; none without perturbations."""
    headings = list(_name_metrics(result).values())
    tables = [
        Table(
            title=f"{name} on changed test images, in percent (95 % interval over test images)",
            header=["Test images", *headings, "Accuracy, change in points"],
            rows=[
                [
                    _describe(result, row.perturbation),
                    *(_format(row.metrics[metric]) for metric in METRICS),
                    "" if row.perturbation == UNCHANGED else _format_points(row.changes["accuracy"]),
                ]
                for row in rows
            ],
        )
        for name, rows in _group(result).items()
    ]
    differences: dict[tuple[str, str], list[list[str]]] = {}
    for each in compare_robustness(result):
        cells = [_format_points(each.metrics[metric]) for metric in METRICS]
        differences.setdefault((each.first, each.second), []).append([_describe(result, each.perturbation), *cells])
    for (first, second), rows in differences.items():
        title = f"{first} minus {second} on changed test images, in points (95 % interval)"
        tables.append(Table(title=title, header=["Test images", *headings], rows=rows))
    return tables


def draw_robustness(result: Result) -> list[tuple[str, str]]:
    """Return captions and charts, one for each metric; none without perturbations."""
    groups, drawn = _group(result), []
    for metric, heading in _name_metrics(result).items() if groups else ():
        series = {
            name: [(row.metrics[metric].mean, *_list_ends(row.metrics[metric])) for row in rows]
            for name, rows in groups.items()
        }
        kinds = [_describe(result, row.perturbation) for row in next(iter(groups.values()))]
        caption = f"{heading}, with 95 % intervals"
        figure = figures.draw_ranges(kinds, series, heading)
        drawn.append((caption, figures.render_svg(figure, name=f"robustness-{metric}", description=caption)))
    return drawn


def format_robustness(result: Result) -> bytes:
    """Return robustness.csv: a row for each configuration and kind of test images; metrics are in [0, 1]."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in measure_robustness(result):
        cells: list[str | int | float] = [defuse(row.model), row.perturbation, row.seeds]
        for metric in METRICS:
            value, change = row.metrics[metric], row.changes[metric]
            cells += [value.mean, value.deviation, value.interval.low, value.interval.high]
            cells += [change.mean, change.interval.low, change.interval.high]
        writer.writerow("" if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells)
    return file.getvalue().encode()


def _group(result: Result) -> dict[str, list[Robustness]]:
    groups: dict[str, list[Robustness]] = {}
    for row in measure_robustness(result):
        groups.setdefault(row.model, []).append(row)
    return groups


def _name_metrics(result: Result) -> Mapping[str, str]:
    negative, positive = result.classes
    return dict(zip(METRICS, ("Accuracy", f"Recall of {negative}", f"Recall of {positive}"), strict=True))


def _describe(result: Result, perturbation: str) -> str:
    return UNCHANGED if perturbation == UNCHANGED else describe_perturbation(perturbation, result.config.data.size)


def _format(value: Estimate) -> str:
    interval = format_interval(value.interval.low, value.interval.high)
    return format_percent(value.mean, value.deviation) + (f" ({interval})" if interval else "")


def _format_points(value: Estimate) -> str:
    interval = format_interval(value.interval.low, value.interval.high)
    return f"{100 * value.mean:+.2f}" + (f" ({interval})" if interval else "")


def _list_ends(value: Estimate) -> tuple[float, float]:
    """Return the ends of an interval; both are the mean if it is unknown."""
    low, high = value.interval.low, value.interval.high
    return (low, high) if not math.isnan(low) else (value.mean, value.mean)

"""The overview of a result: a figure of all accuracies, and a sentence to quote for each winner."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from search.evaluation.comparison import summarize
from search.evaluation.result import Result
from search.report.cells import format_amount, format_interval, format_percent
from search.report.figures import PANEL, TRAIN_COLOUR, VAL_COLOUR

MARKS = {
    "sealed": ("D", VAL_COLOUR),
    "untouched test": ("D", "none"),
    "peak on test": ("X", VAL_COLOUR),
    "not stated": ("o", "none"),
}
"""Protocol -> shape and filling of a published point."""
SHAPES = "os^vP"
"""Source -> shape of our points: winners are filled, the others are hollow."""
MAX_NAME = 26
"""Largest number of characters of a model's name."""


def draw_accuracies(result: Result) -> Figure:
    """Draw the accuracy of every row of the comparison, the highest on top; ours have their intervals."""
    rows = sorted(
        (row for row in _list_rows(result) if not math.isnan(row["accuracy"])), key=lambda row: -row["accuracy"]
    )
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row["protocol"] if row["source"] == "published" else row["source"], []).append(place)
    figure = Figure(figsize=(PANEL[0], 1.0 + 0.24 * len(rows) + 0.1 * len(groups)), layout="constrained")
    axes = figure.subplots()
    shapes = itertools.cycle(SHAPES[1:])
    for group, places in sorted(groups.items(), key=lambda item: (item[0] in MARKS, item[0] != "this study")):
        if group in MARKS:
            shape, filling = MARKS[group]
            style, name = {"color": VAL_COLOUR, "fmt": shape, "mfc": filling}, f"published, {group}"
        else:
            is_winner = group == "this study"
            shape, filling = (SHAPES[0], TRAIN_COLOUR) if is_winner else (next(shapes), "none")
            style, name = {"color": TRAIN_COLOUR, "fmt": shape, "mfc": filling}, f"{group}, 95 % interval"
        _plot_points(axes, [rows[place] for place in places], places, label=name, **style)
    _label_rows(axes, rows)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def describe_accuracies(result: Result) -> str:
    """Return the figure in words, for readers who cannot see it."""
    told = [f"{row['model']} {format_percent(row['accuracy'])}" for row in _list_rows(result)]
    return f"Accuracy on test in percent: {', '.join(told)}"


def list_quotes(result: Result) -> list[str]:
    """Return a sentence for each winner: its accuracy, with interval, seeds, protocol and number of images."""
    return [
        f"{row['model']}: accuracy {format_percent(row['accuracy'], row['accuracy_std'])} % (95 % interval "
        f"{format_interval(row['accuracy_low'], row['accuracy_high'])}, {format_amount(row['seeds'], 'seed')}, "
        f"{row['protocol']}, {len(result.labels):,} images)"
        for row in _list_rows(result)
        if row["source"] == "this study"
    ]


def _list_rows(result: Result) -> list[dict[Any, Any]]:
    rows: list[dict[Any, Any]] = summarize(result).to_dict("records")
    return rows


def _plot_points(axes: Axes, rows: Sequence[Mapping[Any, Any]], places: Sequence[int], **style: Any) -> None:
    values, lows, highs = np.array([[row[f"accuracy{end}"] for end in ("", "_low", "_high")] for row in rows]).T
    errors = None if np.isnan(lows).all() else np.nan_to_num([values - lows, highs - values])
    axes.errorbar(values, places, xerr=errors, markersize=4.5, linewidth=0, elinewidth=1.6, **style)


def _label_rows(axes: Axes, rows: Sequence[Mapping[Any, Any]]) -> None:
    """Write the names of the rows on the left, their values on the right."""
    names = [row["model"] if len(row["model"]) <= MAX_NAME else f"{row['model'][: MAX_NAME - 1]}…" for row in rows]
    axes.set_yticks(range(len(rows)), labels=names, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    figures = axes.secondary_yaxis("right")
    figures.set_yticks(range(len(rows)), labels=[format_percent(row["accuracy"]) for row in rows])
    for each in (axes, figures):
        each.tick_params(axis="y", length=0)
        each.spines[["left", "right", "top"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("accuracy on test")
    axes.grid(alpha=0.3)

"""The figures of a report: functions from plain data to matplotlib figures.

Only this file and overview.py import matplotlib.
"""

import html
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from search.config.fields import GOALS
from search.record.trial import Trial
from search.report.cells import format_amount

TRAIN_COLOUR, VAL_COLOUR = "#0072B2", "#D55E00"
"""Blue and vermilion. Source: Wong 2011, Points of view: Color blindness, Nature Methods 8:441."""
COLOURS = (TRAIN_COLOUR, VAL_COLOUR, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of architectures, in their order; after the last one the first comes again. Source: as above."""
DPI = 150
PANEL = (4.4, 3.1)
"""Size of one panel in inches, readable on a telephone."""
SQUARE = (3.8, 3.7)
"""Size of a square panel in inches, for two shares."""
NUM_BINS = 10
"""Bins of equal width in a reliability diagram."""

NUM_POINTS = 200
"""Largest number of points of a line of coverage; more cannot be seen."""

Matrix = tuple[tuple[int, int], tuple[int, int]]
"""Counts of images by label: rows true, columns predicted."""


def draw_confusion(matrices: Sequence[Matrix], architecture: str, classes: Sequence[str]) -> Figure:
    """Draw one confusion matrix: counts summed over the seeds, coloured by the share of the true class."""
    counts = np.sum(matrices, axis=0)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(4.4, 3.9), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,}\n{shares[row, column]:.2%}"
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks((0, 1), labels=classes, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{architecture} on test, sum over {format_amount(len(matrices), 'seed')}")
    figure.colorbar(picture, ax=axes, format=PercentFormatter(1.0), label="share of the true class", shrink=0.85)
    return figure


def draw_curves(trial: Trial) -> Figure:
    """Draw two metrics by epoch, on train (during training) and on validation, and mark the best epoch."""
    figure = Figure(figsize=(8.4, 3.5), layout="constrained")
    figure.suptitle(f"{trial.architecture}, trial {trial.number}: the best configuration on validation")
    for axes, name in zip(figure.subplots(1, 2), list_panels(trial), strict=True):
        _plot_curve(axes, trial, name)
    axes.legend()
    return figure


def list_panels(trial: Trial) -> list[str]:
    """Return the two metrics that are drawn: loss, and the study's metric or else accuracy."""
    return list(dict.fromkeys(("loss", trial.metric, "accuracy")))[:2]


def draw_curve(trial: Trial, name: str) -> Figure:
    """Draw one of the two panels of `draw_curves`."""
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.subplots()
    _plot_curve(axes, trial, name)
    axes.legend(frameon=False)
    return figure


def draw_schedule(curve: Sequence[float], metric: str, early: int) -> Figure:
    """Draw a validation metric by epoch, and mark an epoch before the last to compare with it."""
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(curve) + 1), curve, color=VAL_COLOUR, marker="s", markersize=4, label="validation")
    axes.axvline(early, color="grey", linestyle=":", label="three quarters of the schedule")
    _label_epochs(axes, metric)
    axes.legend(frameon=False)
    return figure


def draw_coverage(lines: Mapping[str, Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]]) -> Figure:
    """Draw the accuracy on the most confident images of each model against their share, as of `trace_coverage`."""
    figure = Figure(figsize=SQUARE, layout="constrained")
    axes = figure.subplots()
    for colour, (name, curves) in zip(itertools.cycle(COLOURS), lines.items(), strict=False):
        for number, (shares, accuracies) in enumerate(curves):
            first = len(shares) // 20  # fewer images say little
            shown = np.linspace(first, len(shares) - 1, min(len(shares) - first, NUM_POINTS)).astype(np.int64)
            label = name if number == 0 else None
            axes.plot(shares[shown], accuracies[shown], color=colour, linewidth=1.2, alpha=0.8, label=label)
    axes.set(xlabel="share of the images, most confident first", ylabel="accuracy on them", xlim=(-0.02, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower left")
    return figure


def draw_roc(
    truth: NDArray[np.uint8], probabilities: Mapping[str, Sequence[NDArray[np.float32]]], classes: Sequence[str]
) -> Figure:
    """Draw the ROC curve of each model.

    Args:
        truth: (M,): 0 or 1.
        probabilities: Name of the row -> probabilities (M,) of label 1 of each model.
        classes: Names in the order of their labels.
    """
    curves = {name: [roc_curve(truth, probability)[:2] for probability in own] for name, own in probabilities.items()}
    negative, positive = classes
    ends = f"share of {negative} called {positive}", f"share of {positive} called {positive}"
    return _draw_shares(curves, "chance", *ends)


def draw_reliability(
    truth: NDArray[np.uint8], probabilities: Mapping[str, Sequence[NDArray[np.float32]]], classes: Sequence[str]
) -> Figure:
    """Draw the share of positive images against the predicted probability, in NUM_BINS bins; arguments as above."""
    curves = {
        name: [calibration_curve(truth, probability, n_bins=NUM_BINS)[::-1] for probability in own]
        for name, own in probabilities.items()
    }
    ends = f"probability of {classes[1]}", f"share that is {classes[1]}"
    return _draw_shares(curves, "calibrated", *ends, marker="o", markersize=3)


def draw_ranges(rows: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float]]], metric: str) -> Figure:
    """Draw a share with its interval in each row.

    Args:
        rows: Names of the rows, the first one on top; a dotted line marks its mean.
        series: Name of the model -> mean, low and high end of each row.
        metric: Name of the share.
    """
    figure = Figure(figsize=(PANEL[0], 0.8 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for number, (colour, (name, values)) in enumerate(zip(itertools.cycle(COLOURS), series.items(), strict=False)):
        means, lows, highs = np.transpose(values)
        places = np.arange(len(rows)) + 0.5 * ((number + 0.5) / len(series) - 0.5)
        errors = (means - lows, highs - means)
        axes.axvline(means[0], color=colour, linestyle=":", linewidth=1)
        marker = "os^Dv"[number % 5]
        axes.errorbar(means, places, xerr=errors, color=colour, fmt=marker, markersize=3.5, linewidth=1.2, label=name)
    axes.set_yticks(range(len(rows)), labels=rows, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(metric, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure


def render_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def render_svg(figure: Figure, *, name: str, description: str) -> str:
    """Return a figure as an <svg> element that uses the text colour and fonts of its page.

    Args:
        figure: What to render.
        name: Unique on the page; prefix of the element's identifiers.
        description: Text for readers who cannot see the figure.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    width, height = re.findall(r'viewBox="0 0 (\S+) (\S+)"', svg)[0]
    body = svg[svg.index("<defs>") :].replace("#000000", "currentColor")
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # identifiers are unique on a page
    body = re.sub(r'(style="[^"]*)font: ([\d.]+px)[^;"]*', r"\1font-size: \2", body)
    for colour, place in ((TRAIN_COLOUR, "--first"), (VAL_COLOUR, "--second")):
        body = body.replace(colour.lower(), f"var({place}, {colour})")
    label = html.escape(description)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}'


def _plot_curve(axes: Axes, trial: Trial, name: str) -> None:
    epochs = range(1, len(trial.epochs) + 1)
    for key, label, colour, marker in (
        (f"train_{name}", "train", TRAIN_COLOUR, "o"),
        (name, "validation", VAL_COLOUR, "s"),
    ):
        values = [metrics.get(key, math.nan) for metrics in trial.epochs]
        if not all(map(math.isnan, values)):  # most metrics are not measured on train
            axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=label)
    axes.axvline(trial.get_peak()[1], color="grey", linestyle=":", label="best on validation")
    _label_epochs(axes, name)


def _label_epochs(axes: Axes, metric: str) -> None:
    axes.set(xlabel="epoch", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    if GOALS.get(metric) == "max":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_shares(curves: Mapping[str, Sequence[Any]], diagonal: str, x: str, y: str, **style: Any) -> Figure:
    """Draw lines of shares against shares, a colour for each name, and the diagonal with its meaning."""
    figure = Figure(figsize=SQUARE, layout="constrained")
    axes = figure.subplots()
    for colour, (name, lines) in zip(itertools.cycle(COLOURS), curves.items(), strict=False):
        for number, line in enumerate(lines):
            label = name if number == 0 else None
            axes.plot(*line, color=colour, linewidth=1.2, alpha=0.8, label=label, **style)
    axes.plot((0, 1), (0, 1), color="grey", linestyle=":", label=diagonal)
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure

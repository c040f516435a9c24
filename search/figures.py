"""The figures of a report, each a function from plain data to a matplotlib figure.

The only file that knows matplotlib.
"""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from search.journal import Trial
from trainables.data import CLASSES

TRAIN_COLOUR, VAL_COLOUR = "#0072B2", "#D55E00"
"""Blue and vermilion. Source: Wong 2011, Points of view: Color blindness, Nature Methods 8:441."""
DPI = 150

Matrix = tuple[tuple[int, int], tuple[int, int]]
"""Counts: rows true FAKE, REAL; columns predicted FAKE, REAL."""


def draw_confusion(matrices: Sequence[Matrix], architecture: str) -> Figure:
    """Draw one confusion matrix: the sum over the seeds, coloured by the share of the true class."""
    counts = np.sum(matrices, axis=0)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(4.4, 3.9), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,}\n{shares[row, column]:.2%}"
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)
    axes.set(xticks=(0, 1), xticklabels=CLASSES, yticks=(0, 1), yticklabels=CLASSES)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{architecture} on test, sum over {len(matrices)} seed{'' if len(matrices) == 1 else 's'}")
    figure.colorbar(picture, ax=axes, format=PercentFormatter(1.0), label="share of the true class", shrink=0.85)
    return figure


def draw_curves(trial: Trial) -> Figure:
    """Draw loss and accuracy per epoch, on train (while it learns) and on validation, and the epoch that won."""
    epochs = range(1, len(trial.epochs) + 1)
    figure = Figure(figsize=(8.4, 3.5), layout="constrained")
    figure.suptitle(f"{trial.architecture}, trial {trial.number}: the configuration that won on validation")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, label, colour, marker in (
            (f"train_{name}", "train", TRAIN_COLOUR, "o"),
            (name, "validation", VAL_COLOUR, "s"),
        ):
            values = [metrics[key] for metrics in trial.epochs]
            axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=label)
        axes.axvline(trial.get_peak()[1], color="grey", linestyle=":", label="best on validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend()
    return figure


def render_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()

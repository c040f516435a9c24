"""Draws how regret falls with the epochs spent, a panel for each number of slots, for `benchmarks.replay --plot`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that people with any colour vision can tell apart. Source: Okabe and Ito 2008, Color Universal Design."""
DASHES = ("-", "--", "-.", ":")
"""Lines that can be told apart without colour."""
WIDTH, HEIGHT = 3.6, 2.6
"""Size of a panel in inches: two panels are as wide as the text of a page."""
MARKS = (1.0, 2.0, 3.0, 5.0)
"""Ticks in each power of ten."""


def draw(traces: Mapping[tuple[int, str], NDArray[np.float64]], path: Path) -> None:
    """Draw regret against epochs, both on logarithmic scales, with bands of the intervals.

    Args:
        traces: By slots and arm: (points, 4), epochs, interquartile mean of the regret, and its interval.
        path: File to write; its suffix is the format.
    """
    slots = sorted({width for width, _ in traces})
    columns = min(len(slots), 2)
    rows = -(-len(slots) // columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for width, axes in zip(slots, panels, strict=False):
        known = {arm: trace for (own, arm), trace in traces.items() if own == width}
        for place, (arm, trace) in enumerate(known.items()):
            colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
            epochs, means, lows, highs = trace.T
            axes.fill_between(epochs, lows, highs, color=colour, alpha=0.13, lw=0)
            axes.plot(epochs, means, label=arm, color=colour, ls=dash, lw=1.5)
        axes.set(xscale="log", yscale="log", title=f"{width} slot{'' if width == 1 else 's'}", xlabel="epochs spent")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=MARKS))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("regret, points")
    for axes in panels:
        axes.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, dpi=200)

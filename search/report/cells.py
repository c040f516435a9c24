"""Tables as text: numbers in cells, and tables in Markdown, LaTeX and on a terminal."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from search.config.fields import GOALS
from search.config.printable import escape_latex, escape_markdown
from trainables.config import Value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as text: the first column names its rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def format_pipes(table: Table) -> list[str]:
    """Return a table as the lines of a Markdown table."""
    cells = [[escape_markdown(cell) for cell in row] for row in (table.header, *table.rows)]
    header, *rows = align(cells)
    rule = [
        "-" * len(cell) if text else "-" * (len(cell) - 1) + ":"
        for cell, text in zip(header, _is_text(cells), strict=True)
    ]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def format_latex(table: Table) -> str:
    r"""Return a table as a tabular environment, to be \input; it needs no package."""
    header, *rows = [[escape_latex(cell) for cell in row] for row in (table.header, *table.rows)]
    lines = [r"\begin{tabular}{lll" + "r" * (len(header) - 3) + "}", r"\hline"]
    lines += [" & ".join(header) + r" \\", r"\hline", *(" & ".join(row) + r" \\" for row in rows)]
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def align(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Pad each column to its widest cell; text to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, _is_text(rows), strict=True)
        ]
        for row in rows
    ]


def format_percent(mean: float | None, deviation: float = float("nan")) -> str:
    """Return a share in percent, with its deviation if given; an empty cell for None."""
    if mean is None or np.isnan(mean):
        return ""
    return f"{100 * mean:.2f}" if np.isnan(deviation) else f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def format_metric(value: float | None, metric: str) -> str:
    """Return a validation metric: in percent if it is a share, else with four digits; an empty cell for None."""
    return format_percent(value) if value is None or GOALS.get(metric) == "max" else f"{value:.4g}"


def format_interval(low: float, high: float, between: str = " to ") -> str:
    """Return an interval of shares in percent; an empty cell for None."""
    return "" if np.isnan(low) else f"{100 * low:.2f}{between}{100 * high:.2f}"


def format_chance(p: float) -> str:
    """Return a p-value."""
    return "< 1e-300" if p < 1e-300 else f"{p:.2g}"


def format_count(count: Any) -> str:
    """Return a number without decimals, with thousands separators; an empty cell for None."""
    return f"{count:,.0f}" if isinstance(count, int | float) and not math.isnan(count) else ""


def format_duration(seconds: float) -> str:
    """Return a duration in suitable units, such as 2 h 7 min; an empty cell for an unknown one."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        large, small, part, parts = "min", "s", 1, 60
    elif seconds < 86_370:
        large, small, part, parts = "h", "min", 60, 60
    else:
        large, small, part, parts = "d", "h", 3600, 24
    count, rest = divmod(round(seconds / part), parts)
    return f"{count:,} {large} {rest} {small}" if rest else f"{count:,} {large}"


def format_millions(count: Any) -> str:
    """Return a count in millions; an empty cell for None."""
    return f"{count / 1e6:.3g} M" if format_count(count) else ""


def format_amount(number: int, what: str) -> str:
    """Return a number of things, such as 1 seed or 2 seeds."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def format_rank(rank: int) -> str:
    """Return what follows an architecture's name: the rank of its configuration, unless that is the best."""
    return "" if rank == 1 else f" (rank {rank})"


def format_value(value: Value) -> str:
    """Return a parameter's value; a number has four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_text(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Return for each column whether it is text: no cell below the header begins like a number."""
    columns = [column[1:] for column in zip(*rows, strict=True)]
    return [not any(cell[:1] in set("0123456789+-") and cell for cell in column) for column in columns]

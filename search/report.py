"""A study's result as a table and figures: a pure function of the result."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.text import Text

from search.figures import draw_confusion, draw_curves, render_png
from search.page import Table, write_page
from search.provenance import write_file
from search.published import PUBLISHED
from search.result import Result, TestedModel

METRICS = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1", "auroc": "AUROC"}
"""What is compared, with its heading."""
COLUMNS = ("model", "source", "seeds", *(name + end for name in METRICS for end in ("", "_std")), "parameters")
COUNTS = ("seeds", "parameters")
LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def summarize(result: Result) -> pd.DataFrame:
    """Compare each architecture's best configuration with the published results.

    Returns:
        COLUMNS. Metrics lie in [0, 1]: means over the seeds and their sample standard deviations; empty where unknown.
    """
    rows = [_summarize_seeds(name, models) for (name, rank), models in _group(result.models).items() if rank == 1]
    for published in PUBLISHED:
        known = {"model": published.model, "source": "published", "parameters": published.parameters}
        rows.append(known | published.metrics)
    return _build_frame(rows)


def write_report(result: Result, directory: Path) -> list[Path]:
    """Write report.html, comparison.csv, .md and .tex and, per architecture, confusion matrix and winner's curves.

    Args:
        result: What to report.
        directory: Created if missing; the files of an earlier report are replaced, each in one step.

    Returns:
        The files.
    """
    frame = summarize(result)
    contents = {
        "comparison.csv": frame.to_csv(index=False, lineterminator="\n").encode(),
        "comparison.md": format_markdown(result).encode(),
        "comparison.tex": format_latex(frame).encode(),
    }
    trials = {trial.number: trial for trial in result.trials}
    for (architecture, rank), models in _group(result.models).items():
        if rank == 1:
            contents[f"figures/{architecture}_confusion.png"] = render_png(
                draw_confusion([tested.confusion for tested in models], architecture)
            )
            contents[f"figures/{architecture}_curves.png"] = render_png(draw_curves(trials[models[0].trial]))
    paths = [write_file(directory / name, content) for name, content in contents.items()]
    return [*paths, write_page(result, directory / "report.html", results=list_tables(result), search=[])]


def render(result: Result) -> Text:
    """Return the comparison for a terminal of 80 columns; all but the accuracies' deviations stand in the files."""
    rows = [["Test, %", *METRICS.values(), "Parameters"]]
    for row in summarize(result).to_dict("records"):
        seeds = "" if pd.isna(row["seeds"]) else f", {_format_seeds(row['seeds'])}"
        means = [_format_percent(row[name]) for name in METRICS if name != "accuracy"]
        accuracy = _format_percent(row["accuracy"], row["accuracy_std"])
        rows.append([row["model"] + seeds, accuracy, *means, _format_count(row["parameters"])])
    lines = ["  ".join(cells).rstrip() for cells in _align(rows)]
    return Text("\n".join([*lines, "", *result.notes]))


def format_markdown(result: Result) -> str:
    """Return the comparison in percent, the lower ranks if there are any, and the notes."""
    lines = [f"# Study {result.study} on the test split, in percent", "", *_format_pipes(summarize(result))]
    groups = _group(result.models).items()
    lower = [_summarize_seeds(f"{name}, rank {rank}", models) for (name, rank), models in groups if rank > 1]
    if lower:
        lines += ["", "Ranked lower on validation:", "", *_format_pipes(_build_frame(lower))]
    for note in result.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def list_tables(result: Result) -> list[Table]:
    """Return the comparison in percent and, if there are any, the lower ranks."""
    header, *rows = _format_cells(summarize(result))
    tables = [Table(title="On the test split, in percent", header=header, rows=rows)]
    groups = _group(result.models).items()
    lower = [_summarize_seeds(f"{name}, rank {rank}", models) for (name, rank), models in groups if rank > 1]
    if lower:
        header, *rows = _format_cells(_build_frame(lower))
        tables.append(Table(title="Ranked lower on validation, in percent", header=header, rows=rows))
    return tables


def format_latex(frame: pd.DataFrame) -> str:
    r"""Return the comparison in percent as a tabular environment, to be \input; it needs no package."""
    header, *rows = [[cell.translate(LATEX_ESCAPES) for cell in row] for row in _format_cells(frame)]
    lines = [r"\begin{tabular}{ll" + "r" * (len(header) - 2) + "}", r"\hline"]
    lines += [" & ".join(header) + r" \\", r"\hline", *(" & ".join(row) + r" \\" for row in rows)]
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _group(models: Iterable[TestedModel]) -> dict[tuple[str, int], list[TestedModel]]:
    """Return the models of each architecture and rank."""
    groups: dict[tuple[str, int], list[TestedModel]] = {}
    for tested in models:
        groups.setdefault((tested.architecture, tested.rank), []).append(tested)
    return groups


def _summarize_seeds(name: str, models: Sequence[TestedModel]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, "source": "this study"}
    row |= {"seeds": len(models), "parameters": models[0].parameters}
    for metric in METRICS:
        values = [tested.metrics[metric] for tested in models]
        row[metric] = statistics.fmean(values)
        row[f"{metric}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return row


def _build_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    types = {name: "Int64" if name in COUNTS else "float64" for name in COLUMNS[2:]}
    return frame.astype(types)


def _format_cells(frame: pd.DataFrame) -> list[list[str]]:
    """Return heading and rows as a reader wants them; mean and deviation share a cell."""
    cells = [["Model", "Source", "Seeds", *METRICS.values(), "Parameters"]]
    for row in frame.to_dict("records"):
        metrics = [_format_percent(row[name], row[f"{name}_std"]) for name in METRICS]
        cells.append(
            [row["model"], row["source"], _format_count(row["seeds"]), *metrics, _format_count(row["parameters"])]
        )
    return cells


def _format_pipes(frame: pd.DataFrame) -> list[str]:
    header, *rows = _align([[cell.replace("|", r"\|") for cell in row] for row in _format_cells(frame)])
    rule = ["-" * len(cell) if column < 2 else "-" * (len(cell) - 1) + ":" for column, cell in enumerate(header)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def _align(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Pad each column to its widest cell; text to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [not any(cell[:1].isdigit() for cell in column) for column in zip(*rows, strict=True)]
    return [
        [cell.ljust(width) if text else cell.rjust(width) for cell, width, text in zip(row, widths, left, strict=True)]
        for row in rows
    ]


def _format_percent(mean: float, deviation: float = float("nan")) -> str:
    if pd.isna(mean):
        return ""
    return f"{100 * mean:.2f}" if pd.isna(deviation) else f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def _format_count(count: Any) -> str:
    return "" if pd.isna(count) else f"{count:,}"


def _format_seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"

"""A result as tables, in the page and in files: a pure function of the result."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search.config.printable import defuse, escape_markdown
from search.evaluation.comparison import METRICS, Difference, list_details, list_differences, summarize, summarize_lower
from search.evaluation.result import Result
from search.report.cells import (
    Table,
    format_chance,
    format_count,
    format_duration,
    format_interval,
    format_latex,
    format_percent,
    format_pipes,
)
from search.report.coverage import tabulate_coverage
from search.report.figures import draw_confusion, draw_curves, render_png, render_svg
from search.report.overview import describe_accuracies, draw_accuracies, list_quotes
from search.report.page import write_page
from search.report.robustness import format_robustness, tabulate_robustness
from search.report.searches import describe_sampler, list_search_tables
from search.report.sources import format_sources, tabulate_sources
from search.report.summary import summarize_search
from trainables.durable import write_file
from trainables.names import shorten

HEADER = [
    "Model",
    "Source",
    "Protocol",
    "Seeds",
    "Accuracy",
    "95 % interval",
    *list(METRICS.values())[1:],
    "Parameters",
]


def write_report(result: Result, directory: Path) -> list[Path]:
    """Write report.html, comparison.csv, .md and .tex, a figure of all accuracies, and two figures per architecture.

    With perturbations, robustness.csv is written too; with other sources, sources.csv. Return the files. Those of an
    earlier report are replaced, each in one step.
    """
    contents = {
        "comparison.csv": summarize(result).map(defuse).to_csv(index=False, lineterminator="\n").encode(),
        "comparison.md": format_markdown(result).encode(),
        "comparison.tex": format_latex(list_tables(result)[0]).encode(),
    }
    overview = draw_accuracies(result)
    contents["figures/accuracy.png"] = render_png(overview)
    for name in ("robustness.csv", "sources.csv"):  # otherwise the file of an earlier report would stay
        (directory / name).unlink(missing_ok=True)
    if tabulate_robustness(result):
        contents["robustness.csv"] = format_robustness(result)
    if tabulate_sources(result):
        contents["sources.csv"] = format_sources(result)
    for architecture, models in result.winners.items():
        name, matrices = f"figures/{shorten(architecture)}", [tested.confusion for tested in models]
        contents[f"{name}_confusion.png"] = render_png(draw_confusion(matrices, architecture, result.classes))
        contents[f"{name}_curves.png"] = render_png(draw_curves(result.trials[models[0].trial]))
    paths = [write_file(directory / name, content) for name, content in contents.items()]
    page = write_page(
        result,
        directory / "report.html",
        results=list_tables(result),
        search=list_search_tables(result),
        overview=render_svg(overview, name="overview", description=describe_accuracies(result)),
        quotes=list_quotes(result),
    )
    return [*paths, page]


def list_tables(result: Result) -> list[Table]:
    """Return the tables of the evaluation, the comparison first; metrics are in percent."""
    lower = [
        Table(title="Ranked lower on validation, in percent", header=HEADER, rows=_list_rows(summarize_lower(result)))
    ]
    return [
        Table(title="On the test split, in percent", header=HEADER, rows=_list_rows(summarize(result))),
        *(table for table in lower if table.rows),
        _detail(result),
        *tabulate_coverage(result),
        *(table for difference in list_differences(result) for table in _tabulate_difference(difference)),
        *tabulate_sources(result),
        _tabulate_costs(result),
    ]


def format_markdown(result: Result) -> str:
    """Return a sentence for each winner, all tables, and the notes."""
    lines = [f"# Study {result.study}"]
    for quote in list_quotes(result):
        lines += ["", escape_markdown(quote)]
    for table in [*list_tables(result), *tabulate_robustness(result), *list_search_tables(result)]:
        lines += ["", f"## {escape_markdown(table.title)}", "", *format_pipes(table)]
    searches = summarize_search(result.config, result.trials)
    lines += ["", "## Notes"]
    missing = [f"{search.architecture}: {search.missing}" for search in searches if search.missing]
    for note in [describe_sampler(result.config.search), *result.notes, *missing]:
        lines += ["", escape_markdown(note)]
    return "\n".join(lines) + "\n"


def _list_rows(frame: Any) -> list[list[str]]:
    """Return rows under HEADER; mean and deviation share a cell."""
    rows = []
    for row in frame.to_dict("records"):
        accuracy, *others = [format_percent(row[name], row[f"{name}_std"]) for name in METRICS]
        interval = format_interval(row["accuracy_low"], row["accuracy_high"])
        known = [row["model"], row["source"], row["protocol"], format_count(row["seeds"])]
        rows.append([*known, accuracy, interval, *others, format_count(row["parameters"])])
    return rows


def _list_ours(result: Result, without: Sequence[str] = ("published",)) -> list[dict[Any, Any]]:
    frame = summarize(result)
    ours: list[dict[Any, Any]] = frame[~frame["source"].isin(without)].to_dict("records")
    return ours


def _detail(result: Result) -> Table:
    ours = _list_ours(result, without=("published", "ensemble"))
    rows = []
    for name, heading in list_details(result).items():
        means = [format_percent(row[name], row[f"{name}_std"]) for row in ours]
        intervals = [format_interval(row[f"{name}_low"], row[f"{name}_high"]) for row in ours]
        cells = [f"{mean} ({found})" if found else mean for mean, found in zip(means, intervals, strict=True)]
        rows.append([heading.format(negative=result.classes[0]), *cells])
    title = "Mean ± deviation over seeds (95 % interval over test images), in percent"
    return Table(title=title, header=["Metric", *(row["model"] for row in ours)], rows=rows)


def _tabulate_difference(difference: Difference) -> list[Table]:
    first, second = difference.first, difference.second
    rows = [
        [METRICS[name], f"{100 * mean:+.2f}", format_interval(interval.low, interval.high)]
        for name, (mean, interval) in difference.metrics.items()
    ]
    pairs = [
        [str(seed), format_count(pairing.only_first), format_count(pairing.only_second), format_chance(pairing.p)]
        for seed, pairing in difference.pairings.items()
    ]
    header = ["Seed", f"Only {first} right", f"Only {second} right", "p"]
    test = Table(title=f"McNemar's exact test, {first} and {second} of the same seed", header=header, rows=pairs)
    title = f"{first} minus {second}, in points"
    differences = Table(title=title, header=["Metric", "Difference", "95 % interval"], rows=rows)
    return [differences, test] if pairs else [differences]  # failed retrainings may leave no common seed


def _tabulate_costs(result: Result) -> Table:
    header = ["Model", "Parameters", "MACs per image", "Training", "Images/s, batch 1", "Images/s, batch 256"]
    rows = [
        [
            row["model"],
            format_count(row["parameters"]),
            format_count(row["macs"]),
            format_duration(row["training_seconds"]),
            format_count(row["images_per_second_1"]),
            format_count(row["images_per_second_256"]),
            "" if np.isnan(row["peak_memory_bytes"]) else f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
        ]
        for row in _list_ours(result)
    ]
    return Table(title="Cost of a model", header=[*header, "Peak memory"], rows=rows)

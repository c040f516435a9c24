"""A result for a terminal of 80 columns."""

from rich.text import Text

from search.config.printable import escape
from search.evaluation.comparison import Difference, list_differences, summarize
from search.evaluation.result import Result
from search.report.cells import (
    align,
    format_amount,
    format_chance,
    format_interval,
    format_metric,
    format_millions,
    format_percent,
)
from search.report.summary import SearchSummary, format_paper, summarize_search

NAME_WIDTH = 18
"""Largest number of characters of a model's name on a terminal, that of the longest published one."""


def render(result: Result) -> Text:
    """Return the comparison for a terminal of 80 columns; the files have the rest."""
    rows = [["Test, %", "Protocol", "Accuracy", "95 %", "F1", "AUROC", "Params"]]
    for row in summarize(result).to_dict("records"):
        is_other = row["source"] in ("baseline", "ensemble", "front")
        seeds = "" if is_other or row["source"] == "published" else f", {format_amount(row['seeds'], 'seed')}"
        interval = format_interval(row["accuracy_low"], row["accuracy_high"], "-")
        accuracy = format_percent(row["accuracy"], row["accuracy_std"])
        means = [format_percent(row[name]) for name in ("f1", "auroc")]
        protocol = (
            row["source"]
            if is_other
            else row["protocol"].replace("not stated", "?").removesuffix(" test").removesuffix(" on")
        )
        name = row["model"].removesuffix(" averaged")  # the column of the protocol says so
        name = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
        rows.append([name + seeds, protocol, accuracy, interval, *means, format_millions(row["parameters"])])
    lines = ["  ".join(cells).rstrip() for cells in align(rows)]
    told = [_describe_difference(difference) for difference in list_differences(result)]
    told += [
        _describe_search(search, result.config.search.metric)
        for search in summarize_search(result.config, result.trials)
    ]
    return Text("\n".join(map(escape, [*lines, "", *told, "", *result.notes])))


def _describe_difference(difference: Difference) -> str:
    mean, interval = difference.metrics["accuracy"]
    told = f"{100 * mean:+.2f} points ({format_interval(interval.low, interval.high)})"
    chances = sorted(pairing.p for pairing in difference.pairings.values())
    ends = dict.fromkeys(map(format_chance, (*chances[:1], *chances[-1:])))
    found = f"; McNemar, seed by seed: p {' to '.join(ends)}" if chances else ""
    return f"{difference.first} minus {difference.second}: {told}{found}"


def _describe_search(search: SearchSummary, metric: str) -> str:
    known = f"{search.trials} trials, {search.epochs} epochs ({search.full_epochs} if none were stopped)"
    paper = "" if search.paper is None else f", the paper's configuration {format_paper(search, metric)}"
    best = "" if search.best is None else f"; best {metric} on validation {format_metric(search.best, metric)}{paper}"
    return f"{search.architecture}: {known}{best}"

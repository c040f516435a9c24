"""A result as tables, in the page and in files: a pure function of the result."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search.config.conditions import drop_inactive, list_conditions
from search.config.printable import defuse, escape_markdown
from search.config.schema import StudyConfig
from search.config.space import Choice, Range, list_specs
from search.evaluation.comparison import METRICS, Difference, list_details, list_differences, summarize, summarize_lower
from search.evaluation.result import Result
from search.listeners.status import rank_trials
from search.report.cells import (
    Table,
    format_chance,
    format_count,
    format_interval,
    format_latex,
    format_metric,
    format_percent,
    format_pipes,
    format_value,
)
from search.report.coverage import tabulate_coverage
from search.report.figures import draw_confusion, draw_curves, render_png
from search.report.front import tabulate_front
from search.report.page import write_page
from search.report.summary import SearchSummary, summarize_search
from search.samplers.shares import name_device
from trainables.config import Value, list_defaults
from trainables.durable import write_file
from trainables.names import shorten

NUM_BEST = 10
"""Most trials in the table of the best."""
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
    """Write report.html, comparison.csv, .md and .tex and, per architecture, confusion matrix and winner's curves.

    Return the files; those of an earlier report are replaced, each in one step.
    """
    contents = {
        "comparison.csv": summarize(result).map(defuse).to_csv(index=False, lineterminator="\n").encode(),
        "comparison.md": format_markdown(result).encode(),
        "comparison.tex": format_latex(list_tables(result)[0]).encode(),
    }
    for architecture, models in result.winners.items():
        name, matrices = f"figures/{shorten(architecture)}", [tested.confusion for tested in models]
        contents[f"{name}_confusion.png"] = render_png(draw_confusion(matrices, architecture, result.classes))
        contents[f"{name}_curves.png"] = render_png(draw_curves(result.trials[models[0].trial]))
    paths = [write_file(directory / name, content) for name, content in contents.items()]
    page = write_page(result, directory / "report.html", results=list_tables(result), search=list_search_tables(result))
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
        _tabulate_costs(result),
    ]


def list_search_tables(result: Result) -> list[Table]:
    """Return the tables of the search itself."""
    searches = summarize_search(result.config, result.trials)
    return [
        *_tabulate_configurations(result),
        _tabulate_searches(result.config, searches),
        *tabulate_front(result),
        *([_tabulate_importance(searches)] if any(search.importance for search in searches) else []),
    ]


def tabulate_best(result: Result) -> Table:
    """Return the best trials of a search, as many as NUM_BEST, with what was searched."""
    trials = rank_trials(result.trials)[:NUM_BEST]
    searched = dict.fromkeys(name for trial in trials for name in trial.params)
    rows = []
    for trial in trials:
        value, epoch = trial.get_peak()
        params = [format_value(trial.params[name]) if name in trial.params else "" for name in searched]
        rows.append([str(trial.number), f"{value:.6g}", str(epoch), trial.state.value, *params])
    header = ["Trial", result.config.search.metric, "Epoch", "State", *searched]
    return Table(title="Best trials", header=header, rows=rows)


def format_markdown(result: Result) -> str:
    """Return all tables, and the notes."""
    lines = [f"# Study {result.study}"]
    for table in [*list_tables(result), *list_search_tables(result)]:
        lines += ["", f"## {escape_markdown(table.title)}", "", *format_pipes(table)]
    lines += ["", "## Notes"]
    for note in result.notes:
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
    header = ["Model", "Parameters", "MACs per image", "Training, s", "Images/s, batch 1", "Images/s, batch 256"]
    rows = [
        [
            row["model"],
            format_count(row["parameters"]),
            format_count(row["macs"]),
            f"{row['training_seconds']:,.1f}",
            format_count(row["images_per_second_1"]),
            format_count(row["images_per_second_256"]),
            "" if np.isnan(row["peak_memory_bytes"]) else f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
        ]
        for row in _list_ours(result)
    ]
    return Table(title="Cost of a model", header=[*header, "Peak memory"], rows=rows)


def _tabulate_configurations(result: Result) -> list[Table]:
    """Return a table for each architecture: retrained parameters that were searched or differ from the default."""
    configurations: dict[str, dict[str, dict[str, Value]]] = {}
    for (architecture, rank), models in result.groups.items():
        others = result.baselines | result.front
        name = architecture if rank == 1 else others.get((architecture, rank), f"{architecture}, rank {rank}")
        params = list_defaults(architecture) | result.trials[models[0].trial].params
        configurations.setdefault(architecture, {})[name] = params
    tables = [_tabulate_params(result, name, columns) for name, columns in configurations.items()]
    return [table for table in tables if table.rows]


def _tabulate_params(result: Result, architecture: str, configurations: Mapping[str, Mapping[str, Value]]) -> Table:
    specs = list_specs(result.config.space, architecture)
    conditions = list_conditions(specs)
    shown = [drop_inactive(conditions, params) for params in configurations.values()]
    rows = [
        [name, format_value(default), *(format_value(params.get(name, "")) for params in shown)]
        for name, default in list_defaults(architecture).items()
        if isinstance(specs.get(name), Range | Choice)
        or any(params[name] != default for params in configurations.values())
    ]
    return Table(title=f"Configurations of {architecture}", header=["Parameter", "Default", *configurations], rows=rows)


def _tabulate_searches(config: StudyConfig, searches: Sequence[SearchSummary]) -> Table:
    metric = config.search.metric
    header = ["Search", "Trials", "Failed", "Stopped early", "Epochs", "Hours", f"{name_device(config)}-hours"]
    header += ["Epochs if none stopped", "Hours if none stopped", f"Best {metric} on validation"]
    has_paper = any(search.paper is not None for search in searches)
    header += ["Paper's configuration"] if has_paper else []
    rows = [
        [
            search.architecture,
            format_count(search.trials),
            format_count(search.failed),
            f"{100 * search.stopped:.0f} %",
            format_count(search.epochs),
            f"{search.hours:.2f}",
            f"{search.device_hours:.2f}",
            format_count(search.full_epochs),
            f"{search.full_hours:.2f}",
            format_metric(search.best, metric),
            *([format_metric(search.paper, metric)] if has_paper else []),
        ]
        for search in searches
    ]
    return Table(title="The search: hours of trials, extrapolated where a trial was stopped", header=header, rows=rows)


def _tabulate_importance(searches: Sequence[SearchSummary]) -> Table:
    names = dict.fromkeys(name for search in searches for name in search.importance)
    rows = [[name, *(format_percent(search.importance.get(name)) for search in searches)] for name in names]
    header = ["Parameter", *(search.architecture for search in searches)]
    return Table(
        title="Parameter importance (PED-ANOVA, best tenth of the trials, at least five), in percent",
        header=header,
        rows=rows,
    )

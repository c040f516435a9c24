"""The search itself as tables: configurations, cost, front, importance, the best trials."""

from collections.abc import Mapping, Sequence
from typing import Any

from search.config.conditions import drop_inactive, list_conditions
from search.config.schema import StudyConfig
from search.config.search import SearchConfig
from search.config.space import Choice, Range, list_specs
from search.evaluation.result import Result
from search.record.trial import Trial, rank_trials
from search.report.cells import (
    Table,
    format_amount,
    format_count,
    format_duration,
    format_metric,
    format_percent,
    format_value,
)
from search.report.front import tabulate_front
from search.report.summary import SearchSummary, format_paper, summarize_search
from search.samplers.sampler import PARTS
from search.samplers.shares import list_shares, measure_seconds, name_device
from trainables.config import Value, list_defaults

NUM_BEST = 10
"""Largest number of trials in the table of the best trials."""


def describe_sampler(search: SearchConfig) -> str:
    """Return a sentence about the sampler that proposed the trials, and why it was chosen."""
    if search.sampler != "portfolio":
        return f"Sampler: {search.sampler}, named in the configuration."
    parts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in PARTS.items())
    return (
        f"Sampler: portfolio, which draws a sampler for each proposal ({parts}). It is the default: on replayed "
        "trainings it was clearly better than random search with ASHA, and nowhere worse than tpe (LOG.md, 2026-11-29)."
    )


def describe_shares(config: StudyConfig, trials: Sequence[Trial], changes: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a sentence on what was shared, in which proportion, perhaps changed, and what each architecture got."""
    search, shares = config.search, list_shares(config)
    device = name_device(config)
    what = {"trials": "number of trials", "epochs": "epochs trained", "seconds": f"{device}-seconds of training"}
    what["value"] = "number of trials, while an architecture could still win,"
    weights = " to ".join(f"{share:g}" for share in shares.values())
    if any("search.shares" in str(change["differences"]) for change in changes):
        weights = f"first in other proportions, in the end {weights}"
    got = []
    for name in shares:
        mine = [trial for trial in trials if trial.architecture == name]
        epochs = sum(len(trial.epochs) for trial in mine)
        seconds = sum(measure_seconds(config, trial) for trial in mine)
        amounts = f"{format_amount(len(mine), 'trial')}, {format_amount(epochs, 'epoch')}"
        got.append(f"{name} got {amounts}, {seconds:,.0f} {device}-seconds")
    return f"The search divided the {what[search.divide]} {weights} among {', '.join(shares)}: {'; '.join(got)}."


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
    """Return a table of the best trials of a search, at most NUM_BEST, with their searched parameters."""
    trials = rank_trials(result.trials)[:NUM_BEST]
    searched = dict.fromkeys(name for trial in trials for name in trial.params)
    rows = []
    for trial in trials:
        value, epoch = trial.get_peak()
        params = [format_value(trial.params[name]) if name in trial.params else "" for name in searched]
        rows.append([str(trial.number), f"{value:.6g}", str(epoch), trial.state.value, *params])
    header = ["Trial", result.config.search.metric, "Epoch", "State", *searched]
    return Table(title="Best trials", header=header, rows=rows)


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
    header = ["Search", "Trials", "Failed", "Stopped early", "Epochs", "Time", f"Time x {name_device(config)}s"]
    header += ["Epochs if none stopped", "Time if none stopped", f"Best {metric} on validation"]
    has_paper = any(search.paper is not None for search in searches)
    header += ["Paper's configuration"] if has_paper else []
    rows = [
        [
            search.architecture,
            format_count(search.trials),
            format_count(search.failed),
            f"{100 * search.stopped:.0f} %",
            format_count(search.epochs),
            format_duration(search.seconds),
            format_duration(search.device_seconds),
            format_count(search.full_epochs),
            format_duration(search.full_seconds),
            format_metric(search.best, metric),
            *([format_paper(search, metric)] if has_paper else []),
        ]
        for search in searches
    ]
    return Table(
        title="The search: time summed over its trials, extrapolated for stopped ones", header=header, rows=rows
    )


def _tabulate_importance(searches: Sequence[SearchSummary]) -> Table:
    names = dict.fromkeys(name for search in searches for name in search.importance)
    rows = [[name, *(format_percent(search.importance.get(name)) for search in searches)] for name in names]
    header = ["Parameter", *(search.architecture for search in searches)]
    return Table(
        title="Parameter importance (PED-ANOVA, best tenth of the trials, at least five), in percent",
        header=header,
        rows=rows,
    )

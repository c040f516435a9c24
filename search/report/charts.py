"""Interactive charts of the search: Optuna's own, as JSON that plotly draws in the page."""

import base64
import dataclasses
import gzip
import math
from collections.abc import Sequence
from typing import Any

import optuna
import plotly.colors
import plotly.graph_objects
import plotly.offline
from optuna import visualization
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.config.schema import StudyConfig
from search.evaluation.front import find_front, list_points
from search.record.trial import Trial
from search.report.history import build_study, build_timeline, measure_importance

SCALE = [[0.0, "#5b9bd5"], [1.0, "#e0701c"]]
"""Colours from blue to vermilion, readable on white and on black."""
FIRST, LAST = "#3f8fd0", "#e0701c"
"""The two ends of SCALE, for two values."""
MAX_AXES = 8
"""Largest number of parameters in parallel coordinates; more are unreadable."""
HEIGHT = 320
"""Height of a chart in pixels."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart."""

    kind: str
    """timeline, front, history, importance, parallel or slice."""
    title: str
    """Title: what the chart shows."""
    figure: str
    """JSON for plotly, with data and layout."""
    height: int
    """Pixels."""


def compress_plotly() -> str:
    """Return plotly.js, gzipped, in base64: 2 MB instead of 5."""
    return base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)).decode()


def build_timeline_chart(trials: Sequence[Trial]) -> Chart | None:
    """Return the chart of when each trial ran and how it ended, None if no trial has times."""
    study = build_timeline(trials)
    if not study.trials:
        return None
    figure = visualization.plot_timeline(study)
    colours = {"COMPLETE": FIRST, "PRUNED": LAST, "FAIL": "#d6336c", "RUNNING": "#2b8a3e"}
    numbers = _list_numbers(study)
    for bars in figure.data:
        bars.update(marker_color=colours[bars.name], y=[numbers[place] for place in bars.y])
    figure.update_yaxes(autorange="reversed", title=None)
    figure.update_xaxes(title=None)
    return _finish("timeline", "When each trial ran and how it ended", figure, 160 + 10 * min(len(study.trials), 60))


def build_charts(config: StudyConfig, trials: Sequence[Trial], architecture: str) -> list[Chart]:
    """Return one architecture's history, importance, parallel coordinates and slices, if it has enough trials."""
    study = build_study(config, trials, architecture)
    valued = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not valued:
        return []
    metric = config.search.metric
    charts = [_build_history(study, metric, {trial.number for trial in trials if trial.state == "PRUNED"})]
    importance = measure_importance(study)
    names = list(importance) or sorted({name for trial in valued for name in trial.params})
    common = [name for name in names if all(name in trial.params for trial in valued)]
    if importance:
        charts.append(_build_importance(importance))
    if len(valued) > 1 and common:
        charts.append(_build_parallel(study, metric, common[:MAX_AXES]))
    if len(valued) > 1:
        charts += [_build_slice(study, metric, name) for name in names]
    return charts


def build_front_chart(config: StudyConfig, trials: Sequence[Trial]) -> Chart | None:
    """Return the chart of metric and cost of all trials with their front; None if no trial has the cost."""
    metric, cost = config.search.metric, config.evaluation.front_cost
    points = [point for point in list_points(config, trials) if cost in point.costs]
    if not points:
        return None
    front, figure = find_front(points, cost), plotly.graph_objects.Figure()
    for shown, mode, name, colour in ((points, "markers", "a trial", FIRST), (front, "lines+markers", "front", LAST)):
        figure.add_scatter(
            x=[point.costs[cost] for point in shown],
            y=[point.trial.get_peak()[0] for point in shown],
            text=[f"trial {point.trial.number}" for point in shown],
            **{"mode": mode, "name": name, "line": {"color": colour, "shape": "hv"}, "marker": {"color": colour}},
        )
    named = {"seconds": "seconds of training per image"}.get(cost, cost.replace("_", "-"))
    figure.update_xaxes(title=named, type="log")
    figure.update_yaxes(title=f"validation {metric}")
    return _finish("front", f"Trade-off of validation {metric} and {named}, with the front", figure)


def _build_history(study: optuna.Study, metric: str, stopped: set[int]) -> Chart:
    figure = visualization.plot_optimization_history(study, target_name=f"validation {metric}")
    numbers = _list_numbers(study)
    points, best, *_ = figure.data
    shown = [numbers[place] for place in points.x]
    symbols = ["circle-open" if number in stopped else "circle" for number in shown]
    points.update(x=shown, name="a trial; hollow: stopped early", marker={"symbol": symbols, "color": FIRST, "size": 7})
    best.update(x=[numbers[place] for place in best.x], name="best so far", line={"color": LAST, "shape": "hv"})
    figure.data = (points, best)
    return _finish("history", "Best epoch of each trial on validation", figure)


def _build_importance(importance: dict[str, float]) -> Chart:
    shares = dict(reversed(importance.items()))  # plotly draws the first one at the bottom
    texts = [f"{share:.2f}" if share >= 0.01 else "<0.01" for share in shares.values()]
    bars = {"text": texts, "textposition": "outside", "cliponaxis": False, "marker_color": FIRST}
    figure = plotly.graph_objects.Figure()
    figure.add_bar(x=list(shares.values()), y=list(shares), orientation="h", **bars)
    figure.update_xaxes(range=[0, 1.15 * max(shares.values())])
    return _finish("importance", "Importance of each parameter", figure, 90 + 26 * len(importance))


def _build_parallel(study: optuna.Study, metric: str, names: list[str]) -> Chart:
    figure = visualization.plot_parallel_coordinate(study, params=names, target_name=metric)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    for line in lines:
        quality = 1 - line.y[0] if study.direction is StudyDirection.MINIMIZE else line.y[0]
        line.update(line_color=plotly.colors.sample_colorscale(SCALE, [quality])[0], opacity=0.7)
    figure.data = lines
    return _finish("parallel", f"Validation {metric} and parameters of each trial; better is more orange", figure, 380)


def _build_slice(study: optuna.Study, metric: str, name: str) -> Chart:
    figure = visualization.plot_slice(study, params=[name], target_name=metric)
    figure.update_traces(marker={"colorscale": SCALE, "showscale": False, "size": 6, "line": {"width": 0}})
    figure.update_yaxes(title=None)
    axis, values = figure.layout.xaxis, figure.data[0].x
    axis.title = None
    if axis.type == "log":
        ends = [math.floor(math.log10(min(values)) - 0.1), math.ceil(math.log10(max(values)) + 0.1)]
        axis.update(dtick=1, exponentformat="power", range=ends)
    elif axis.type == "category":  # Optuna writes texts in quotes
        figure.data[0].x = [value.strip("'") for value in values]
        axis.categoryarray = [value.strip("'") for value in axis.categoryarray]
    return _finish("slice", name, figure, 210)


def _finish(kind: str, title: str, figure: Any, height: int = HEIGHT) -> Chart:
    """Use the page's colours, light or dark; dragging scrolls the page."""
    figure.update_layout(
        template="none",
        title=None,
        height=height,
        width=None,
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 8, "t": 8 if kind in ("slice", "importance") else 24, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "title": None},
        dragmode=False,
    )
    figure.update_xaxes(fixedrange=True, automargin=True)
    figure.update_yaxes(fixedrange=True, automargin=True)
    return Chart(kind=kind, title=title, figure=figure.to_json(), height=height)


def _list_numbers(study: optuna.Study) -> list[int]:
    """Return the trials' numbers in the search."""
    return [trial.user_attrs["trial"] for trial in study.get_trials(deepcopy=False)]

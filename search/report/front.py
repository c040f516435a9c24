"""The trials on the front of metric and cost, as a table."""

import math
from collections.abc import Sequence

from search.config.printable import escape, format_params
from search.config.schema import StudyConfig
from search.evaluation.front import find_front, list_points, measure_point
from search.evaluation.result import Result
from search.listeners.status import list_differing
from search.record.trial import Trial
from search.report.cells import Table, format_count, format_duration, format_metric
from trainables.names import shorten


def tabulate_front(result: Result) -> list[Table]:
    """Return a table of the trials on the front, or none if no trial has its cost."""
    metric, cost = result.config.search.metric, result.config.evaluation.front_cost
    front = find_front(list_points(result.config, result.trials), cost)
    rows = [
        [
            str(point.trial.number),
            point.trial.architecture,
            format_metric(point.trial.get_peak()[0], metric),
            format_count(point.costs.get("parameters")),
            format_count(point.costs.get("multiply_accumulates")),
            format_duration(point.costs.get("seconds", math.nan)),
            format_params(list_differing(point.trial)),
        ]
        for point in (measure_point(result.config, each.trial) for each in front)
    ]
    title = f"Trade-off: trials whose validation {metric} no other one reaches with fewer {cost.replace('_', '-')}"
    header = ["Trial", "Architecture", f"Best {metric}", "Parameters", "MACs per image", "Training per image"]
    return [Table(title=title, header=[*header, "Differs from the defaults in"], rows=rows)] if rows else []


def describe_uncounted(config: StudyConfig, trials: Sequence[Trial]) -> list[str]:
    """Return a note for each reason for which models are missing on a front of parameters or multiply-accumulates."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for point in list_points(config, trials) if config.trainable is None else ():
        if point.reason is not None:
            missing = "multiply-accumulates" if "parameters" in point.costs else "parameters and multiply-accumulates"
            key = (shorten(point.trial.architecture), missing, escape(" ".join(point.reason.split()))[:200])
            found.setdefault(key, []).append(str(point.trial.number))
    return [
        f"{name}: the {missing} of trial {', '.join(numbers)} cannot be counted, so no such front has it: {reason}."
        for (name, missing, reason), numbers in found.items()
    ]

"""The trials on the front of metric and cost, as a table."""

from search.evaluation.front import find_front, list_points
from search.evaluation.result import Result
from search.listeners.status import format_params, list_changed
from search.report.cells import Table, format_count, format_metric


def tabulate_front(result: Result) -> list[Table]:
    """Return a table of the trials on the front, or none where no trial has its cost."""
    metric, cost = result.config.search.metric, result.config.evaluation.front_cost
    rows = [
        [
            str(point.trial.number),
            point.trial.architecture,
            format_metric(point.trial.get_peak()[0], metric),
            format_count(point.costs.get("parameters")),
            format_count(point.costs.get("multiply_accumulates")),
            f"{1000 * point.costs['seconds']:.3g}" if "seconds" in point.costs else "",
            format_params(list_changed(point.trial)),
        ]
        for point in find_front(list_points(result.config, result.trials), cost)
    ]
    title = f"Trade-off: trials whose {metric} on validation no trial reaches with less {cost.replace('_', '-')}"
    header = ["Trial", "Architecture", f"Best {metric}", "Parameters", "MACs per image", "Training, ms per image"]
    return [Table(title=title, header=[*header, "Differs from the defaults in"], rows=rows)] if rows else []

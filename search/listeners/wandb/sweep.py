"""A study as a W&B sweep: space, metric, goal, and sampler and scheduler in its description."""

from collections.abc import Sequence
from typing import Any

from search.config.conditions import list_conditions
from search.config.schema import StudyConfig
from search.config.space import build_distributions, list_specs
from search.schedulers.scheduler import HALVING

METHODS = {
    **dict.fromkeys(("tpe", "tpe_multivariate", "tpe_tame", "gp", "gp_rungs", "portfolio"), "bayes"),
    **dict.fromkeys(("random", "qmc"), "random"),
}
"""Sampler -> W&B's nearest name. It is only shown: without agents, W&B proposes nothing."""


def describe_sweep(config: StudyConfig) -> dict[str, Any]:
    """Return the sweep's configuration; a parameter of several architectures covers the values of all of them.

    The scheduler is in the description and not under `early_terminate`, by which W&B's server would stop runs.
    """
    search = config.search
    specs = {name: list_specs(config.space, name) for name in search.architectures}
    found = {name: build_distributions(spec, name) for name, spec in specs.items()}
    names = dict.fromkeys(parameter for distributions in found.values() for parameter in distributions)
    parameters: dict[str, Any] = {"architecture": {"values": list(search.architectures)}}
    for name in names:
        searched = [distributions[name] for distributions in found.values() if name in distributions]
        fixed = [spec[name] for known, spec in specs.items() if name in spec and name not in found[known]]
        parameters[name] = _span(searched, fixed)
    return {
        "name": config.name,
        "description": f"A study of cifake-search. {_describe_search(config)}{_describe_conditions(config)}",
        "method": METHODS.get(search.sampler, "bayes"),
        "metric": {"name": f"best_{search.metric}", "goal": "minimize" if search.sign < 0 else "maximize"},
        "parameters": parameters,
    }


def _describe_search(config: StudyConfig) -> str:
    search = config.search
    ends = f"Trials of {search.describe_epochs()} are proposed by Optuna ({search.sampler})"
    if search.scheduler == "none":
        return f"{ends}; none is stopped early."
    rungs = dict.fromkeys(str(search.find_first_rung(name)) for name in search.architectures)
    rule = f"grace_epochs {' or '.join(rungs)}"
    if search.scheduler in HALVING:
        rule += f", reduction_factor {search.reduction_factor:g}"
    names = {"asha": "ASHA", "hyperband": "Hyperband", "median": "the median rule"}
    name = names.get(search.scheduler, search.scheduler)
    return f"{ends} and stopped by {name} ({rule}), for each architecture by itself."


def _describe_conditions(config: StudyConfig) -> str:
    """Return a sentence about the conditions of the space, for which a sweep has no key; empty if there are none."""
    specs = [list_specs(config.space, name) for name in config.search.architectures]
    names = dict.fromkeys(name for known in specs for name in list_conditions(known))
    return f" Only trials that meet its condition have a value of {', '.join(names)}." if names else ""


def _span(searched: Sequence[Any], fixed: Sequence[Any]) -> dict[str, Any]:
    """Return the smallest W&B parameter that contains all of Optuna's distributions and all fixed values."""
    ranges = [distribution for distribution in searched if not hasattr(distribution, "choices")]
    values = [*fixed, *(value for distribution in searched for value in getattr(distribution, "choices", ()))]
    if not ranges:
        return {"values": list(dict.fromkeys(values))}
    low = min(values + [distribution.low for distribution in ranges])
    high = max(values + [distribution.high for distribution in ranges])
    is_log = low > 0 and all(distribution.log for distribution in ranges)
    is_int = all(isinstance(bound, int) for bound in (low, high))
    steps = {distribution.step for distribution in ranges} - {None, 1 if is_int else None}
    bounds: dict[str, Any] = {"min": low, "max": high}
    if is_log and is_int:
        return {"distribution": "q_log_uniform_values", **bounds, "q": 1}
    if is_log:
        return {"distribution": "log_uniform_values", **bounds}
    if len(steps) == 1:
        return {"distribution": "q_uniform", **bounds, "q": steps.pop()}
    return {"distribution": "int_uniform" if is_int else "uniform", **bounds}

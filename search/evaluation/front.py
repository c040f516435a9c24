"""Trade-offs: the trials whose metric no other trial reaches at a lower cost, over all architectures."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from search.config.fields import FrontCost
from search.config.schema import StudyConfig
from search.evaluation.choices import choose_winners
from search.evaluation.cost import count_weights, count_work
from search.record.trial import Trial
from trainables.config import build_train_config


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A finished trial with its costs."""

    trial: Trial
    costs: Mapping[FrontCost, float]
    """Cost -> value; unknown costs are missing."""
    reason: str | None = None
    """Why parameters or multiply-accumulates are missing; None if they are known."""


def list_points(config: StudyConfig, trials: Sequence[Trial]) -> list[Point]:
    """Return the finished trials by number; of equal configurations only the best.

    Multiply-accumulates are counted only if the study's front compares them: that takes up to half a second a trial.
    """
    names = dict.fromkeys(trial.architecture for trial in trials if not trial.is_foreign)
    found = [trial for name in names for trial in choose_winners(trials, name, None, config.data.size)]
    with_work = config.evaluation.front_cost == "multiply_accumulates"
    return [measure_point(config, trial, with_work=with_work) for trial in sorted(found, key=lambda each: each.number)]


def find_front(points: Sequence[Point], cost: FrontCost) -> list[Point]:
    """Return the points for which no other one is better in metric or cost without being worse in the other.

    Args:
        points: Points in any order; those of unknown cost are left out.
        cost: The cost that is compared.

    Returns:
        The front, the cheapest first; of points that are equal in both, all or none are on it.
    """
    known = [point for point in points if cost in point.costs]
    ordered = sorted(known, key=lambda point: (point.costs[cost], -point.trial.score, point.trial.number))
    front: list[Point] = []
    for point in ordered:
        last = front[-1] if front else None
        is_equal = last and (last.costs[cost], last.trial.score) == (point.costs[cost], point.trial.score)
        if last is None or is_equal or point.trial.score > last.trial.score:
            front.append(point)
    return front


def measure_point(config: StudyConfig, trial: Trial, *, with_work: bool = True) -> Point:
    """Return a trial with the costs of its model, and the seconds of training per image from the record.

    Args:
        config: The study.
        trial: A finished trial.
        with_work: Whether to count the multiply-accumulates.
    """
    speed = trial.attributes.get("images_per_second")
    costs: dict[FrontCost, float] = {"seconds": 1 / speed} if speed else {}
    try:
        built = build_train_config(
            trial.architecture,
            trial.params,
            epochs=config.search.count_epochs(trial.architecture),
            seed=0,
            size=config.data.size,
        )
    except Exception as error:  # noqa: BLE001 parameters of another version, or code that was not imported
        return Point(trial=trial, costs=costs, reason=f"{type(error).__name__}: {error}")
    model: Any = built.model  # a frozen dataclass, so it can be hashed
    counted, reason = _count(model, flip_average=built.flip_average if with_work else None, size=built.size)
    return Point(trial=trial, costs=costs | counted, reason=reason)


@functools.lru_cache(maxsize=1024)
def _count(model: Any, *, flip_average: bool | None, size: int) -> tuple[dict[FrontCost, float], str | None]:
    """Return the costs of a model, and why one could not be counted; no work if `flip_average` is None."""
    costs: dict[FrontCost, float] = {}
    try:
        costs["parameters"] = count_weights(model, size=size)
        if flip_average is not None:
            costs["multiply_accumulates"] = count_work(model, flip_average=flip_average, size=size)
    except Exception as error:  # noqa: BLE001 a network of the user may need the values of its images
        return costs, f"{type(error).__name__}: {error}"
    return costs, None

"""Points that became trials: none of them is proposed twice, whichever sampler proposes.

Where a sampler proposes such a point, the nearest new one takes its place. Of several the trial's own seed draws one,
so it is a function of the record, as the proposal is. A point with a continuous parameter is left as it is, since only
a sampler that means it, such as NSGA-II, proposes one twice.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from search.config.conditions import Conditions, drop_inactive, is_active
from trainables.config import complete_params

Params = dict[str, Any]
Point = frozenset[tuple[str, Any]]
"""What training sees of parameters."""


class Repeats:
    """The points of one architecture that became trials, whatever came of them."""

    def __init__(
        self, architecture: str, distributions: Mapping[str, BaseDistribution], conditions: Conditions, size: int
    ) -> None:
        """Begin without a point.

        Args:
            architecture: Its name.
            distributions: Of the searched parameters; each with a condition follows those that it depends on.
            conditions: By parameter.
            size: Height and width of the images in pixels.
        """
        self._architecture = architecture
        self._distributions = distributions
        self._conditions = conditions
        self._size = size
        self._steps = {
            name: (known.low, known.step)
            for name, known in distributions.items()
            if isinstance(known, FloatDistribution) and known.step is not None
        }
        self._continuous = {
            name
            for name, known in distributions.items()
            if isinstance(known, FloatDistribution) and known.step is None and not known.single()
        }
        self._known: set[Point] = set()

    def add(self, params: Mapping[str, Any]) -> None:
        """Take in the point of a trial."""
        self._known.add(self._describe(params))

    def avoid(self, params: Params, seed: int) -> Params | None:
        """Return a point that was no trial, or has a continuous parameter: this one, or the nearest; None without one.

        Points are neighbours if they differ in one parameter, in a number by one step. Parameters whose condition then
        holds are drawn.
        """
        if self._continuous & params.keys() or self._describe(params) not in self._known:
            return params
        lot, ring, reached, seen = RandomSampler(seed=seed), [params], {frozenset(params.items())}, set[Point]()
        while ring:
            near: dict[Point, Params] = {}
            for other in (other for point in ring for other in self._list_neighbours(point, lot)):
                if (plain := frozenset(other.items())) not in reached:
                    reached.add(plain)
                    near.setdefault(self._describe(other), other)
            if new := [other for point, other in near.items() if point not in self._known]:
                return new[lot._rng.rng.randint(len(new))]
            ring = [other for point, other in near.items() if point not in seen]
            seen |= near.keys()
        return None

    def _list_neighbours(self, params: Params, lot: Any) -> Iterator[Params]:
        for name, distribution in self._distributions.items():
            for value in _list_next(distribution, params[name]) if name in params else ():
                other = drop_inactive(self._conditions, {**params, name: value})
                for added in self._conditions:
                    if added not in other and is_active(self._conditions[added], other):
                        other[added] = lot.sample_independent(None, None, added, self._distributions[added])
                yield other

    def _describe(self, params: Mapping[str, Any]) -> Point:
        """Return what training sees of a point: equal points train alike."""
        whole = complete_params(self._architecture, params, self._size)
        for name, (low, step) in self._steps.items():
            if name in whole:  # samplers write one step of a number in several ways, such as 0.3 and 0.1 + 0.2
                whole[name] = round((float(whole[name]) - low) / step)
        return frozenset(whole.items())


def _list_next(distribution: BaseDistribution, value: Any) -> list[Any]:
    """Return the values next to one: all other choices, a number one step away; none in a continuous range."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return [choice for choice in choices if choice != value]
        case IntDistribution(low=low, high=high, step=step):
            return [other for other in (value - step, value + step) if low <= other <= high]
        case FloatDistribution(low=low, high=high, step=float() as step):
            place = round((value - low) / step)
            others = [low + step * other for other in (place - 1, place + 1) if other >= 0]
            return [min(other, high) for other in others if other <= high + step / 2]
    return []

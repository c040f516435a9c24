"""Points that became trials: none of them is proposed twice, by any sampler.

If a sampler proposes such a point, the nearest new one takes its place. If several are equally near, the trial's seed
draws one, so the result is a function of the record, as the proposal is. A point with a continuous parameter is not
replaced: only a sampler that repeats on purpose, such as NSGA-II, proposes one twice.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from search.config.conditions import Conditions, drop_inactive, is_active
from trainables.config import complete_params

Params = dict[str, Any]
Point = frozenset[tuple[str, Any]]
"""The parameters of a point as training gets them."""


class Repeats:
    """The points of one architecture that became trials, in whatever state these ended."""

    def __init__(
        self, architecture: str, distributions: Mapping[str, BaseDistribution], conditions: Conditions, size: int
    ) -> None:
        """Begin without a point.

        Args:
            architecture: Its name.
            distributions: Of the searched parameters; one with a condition comes after those that it depends on.
            conditions: Conditions by parameter.
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
        """Return this point if it was no trial or has a continuous parameter, else the nearest new one, or None.

        Points are neighbours if they differ in one parameter, a number by one step. If the condition of another
        parameter then holds, its value is drawn.
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
        """Return the parameters of a point as training gets them: equal ones train alike."""
        whole = complete_params(self._architecture, params, self._size)
        for name, (low, step) in self._steps.items():
            if name in whole:  # samplers write the same step as different floats, such as 0.3 and 0.1 + 0.2
                whole[name] = round((float(whole[name]) - low) / step)
        return frozenset(whole.items())


def _list_next(distribution: BaseDistribution, value: Any) -> list[Any]:
    """Return the neighbours of a value: all other choices, or numbers one step away; none in a continuous range."""
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

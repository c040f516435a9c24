"""The parameters of one architecture as numbers, for a model of all parameters together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna._gp.search_space import SearchSpace, _round_one_normalized_param
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.conditions import Conditions

Array = NDArray[np.float64]
NUM_RANDOM, NUM_CHILDREN = 100, 100
"""Candidates."""
NUM_DRAWN = 128
"""Points of one Sobol sequence, a power of two."""
SHARE_CHANGED, STEP = 0.5, 0.1
"""Share of a child's parameters that change, and standard deviation of a number's change, its range being 1."""


class Points:
    """Converts points to rows: a number by its place in its range, a choice by its index, NaN if a condition fails."""

    def __init__(self, distributions: Mapping[str, BaseDistribution], conditions: Conditions) -> None:
        self._space = SearchSpace(dict(distributions))
        self._names = list(distributions)
        self._spare = self._space.get_unnormalized_param(np.zeros(len(self._names)))
        self._conditions = [
            (
                self._names.index(name),
                self._names.index(other),
                self._number([{other: value} for value in values])[:, self._names.index(other)],
            )
            for name, when in conditions.items()
            for other, values in when.items()
            if name in distributions and other in distributions
        ]
        sizes = [
            len(known.choices) if isinstance(known, CategoricalDistribution) else 1 for known in distributions.values()
        ]
        self._last = np.cumsum([size + 1 for size in sizes]) - 1
        self._first = self._last - sizes
        self.owners = np.repeat(np.arange(len(sizes)), [size + 1 for size in sizes])
        """(coordinates,): the parameter of each coordinate."""

    def read(self, trials: Sequence[FrozenTrial]) -> Array:
        """Return (trials, parameters)."""
        points = self._number([trial.params for trial in trials])
        has = np.array([[name in trial.params for name in self._names] for trial in trials]).reshape(points.shape)
        return np.where(has, points, np.nan)

    def write(self, point: Array) -> dict[str, Any]:
        """Return the parameters of a point, without those whose condition does not hold."""
        params = self._space.get_unnormalized_param(np.nan_to_num(point))
        return {name: value for (name, value), known in zip(params.items(), point, strict=True) if not np.isnan(known)}

    def embed(self, points: Array) -> Array:
        """Return (points, coordinates): a choice in which two points differ adds 1 to their squared distance.

        The last coordinate of each parameter is for the points without it.
        """
        coordinates = np.zeros((len(points), len(self.owners)))
        for column, (first, last) in enumerate(zip(self._first, self._last, strict=True)):
            values, lacks = points[:, column], np.isnan(points[:, column])
            if self._space.is_categorical[column]:
                coordinates[np.arange(len(points)), np.where(lacks, last, first + values).astype(int)] = np.sqrt(0.5)
            else:
                coordinates[:, first] = np.where(lacks, 0.5, values)
                coordinates[lacks, last] = 1.0
        return coordinates

    def draw(self, parents: Array, generator: np.random.RandomState) -> Array:
        """Return candidates: random points, and children of two parents each, with some changed parameters."""
        drawn, others = (self._space.sample_normalized_params(NUM_DRAWN, generator) for _ in range(2))
        shape = (NUM_CHILDREN, len(self._names))
        one, other = (parents[generator.randint(len(parents), size=NUM_CHILDREN)] for _ in range(2))
        children = np.where(generator.random_sample(shape) < 0.5, one, other)
        changed = generator.random_sample(shape) < SHARE_CHANGED
        steps = np.where(changed, STEP, 0.0) * generator.standard_normal(shape)
        fresh = np.isnan(children) | (changed & self._space.is_categorical)
        children = np.where(fresh, others[:NUM_CHILDREN], children + np.where(self._space.is_categorical, 0.0, steps))
        for column in np.flatnonzero(~self._space.is_categorical).tolist():
            children[:, column] = _round_one_normalized_param(
                np.clip(children[:, column], 0.0, 1.0),
                self._space._scale_types[column],
                self._space._bounds[column],
                self._space._steps[column],
            )
        candidates = np.concatenate([drawn[:NUM_RANDOM], children])
        for column, deciding, places in self._conditions:
            holds = np.isclose(candidates[:, deciding, None], places).any(axis=1)
            candidates[~holds, column] = np.nan
        return candidates

    def _number(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """Return points as numbers; a parameter that a point lacks gets any value."""
        known = [{name: params.get(name, spare) for name, spare in self._spare.items()} for params in points]
        unused = [create_trial(state=TrialState.RUNNING)] * len(known)  # only their number counts
        return self._space.get_normalized_params(unused, known)

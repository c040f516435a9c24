"""Sources of `benchmarks.replay`: networks that were trained on CIFAKE, and a surrogate between them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from threadpoolctl import threadpool_limits

from benchmarks import curves
from benchmarks.source import Curve, draw_points, find_conditions, list_distributions
from benchmarks.surrogate import Surrogate, Table, load_curves
from search.config.conditions import drop_inactive
from search.config.schema import StudyConfig

HALVES = ("all", "even", "odd", "table")


@dataclasses.dataclass(frozen=True, slots=True)
class Cifake:
    """A Source. Two trainings of a configuration differ as two trained seeds did."""

    half: str = "all"
    """Which configurations the curves were learnt from: all, even or odd ones; `table` draws from the trained ones
    themselves, which tells arms apart that do not learn."""
    kind: str = "cifake"
    """Which networks: a name of `curves.KINDS`."""

    @property
    def name(self) -> str:
        """See Source."""
        return f"{self.kind} {self.half}"

    @property
    def architecture(self) -> str:
        """See Source."""
        return curves.KINDS[self.kind].architecture

    @property
    def max_epochs(self) -> int:
        """See Source."""
        return curves.EPOCHS

    def build_study(self, **search: Any) -> StudyConfig:
        """See Source."""
        return curves.KINDS[self.kind].build_study(**search)

    def train(self, params: Mapping[str, Any], seed: Sequence[int]) -> Curve:
        """See Source."""
        surrogate = fit(self)
        expected, seconds = surrogate.predict(drop_inactive(find_conditions(self), params))
        accuracies = surrogate.deviate(expected, np.random.default_rng(seed))
        return Curve(accuracies, seconds, 100 * (find_best(self) - float(expected.max())))


@functools.cache
def fit(source: Cifake) -> Surrogate | Table:
    """Return the surrogate of one half of the configurations, or of all; or the table itself."""
    trained = load_curves(curves.KINDS[source.kind])
    if source.half == "table":
        return Table(trained)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    part = trained if source.half == "all" else trained.take(("even", "odd").index(source.half), 2)
    with threadpool_limits(1):  # the same sums in the same order on any machine of one kind
        return Surrogate(part, deviations=trained)


@functools.cache
def find_best(source: Cifake) -> float:
    """Return the best accuracy that a surrogate expects anywhere: random points, then changes of the best one."""
    generator = np.random.default_rng(0)
    points, names, conditions = draw_points(source, 4000), list_distributions(source), find_conditions(source)
    found = max(points, key=lambda params: _expect(source, params))
    for _ in range(3000):
        other = points[generator.integers(len(points))]
        kept = generator.random(len(names)) < 0.85
        mixed = {
            name: pair[0]
            for name, keep in zip(names, kept, strict=True)
            if (pair := [point[name] for point in ((found, other) if keep else (other, found)) if name in point])
        }
        found = max(found, drop_inactive(conditions, mixed), key=lambda params: _expect(source, params))
    return _expect(source, found)


def _expect(source: Cifake, params: dict[str, Any]) -> float:
    return float(fit(source).predict(params)[0].max())

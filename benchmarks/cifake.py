"""The first source of `benchmarks.replay`: CNNs that were trained on CIFAKE, and a surrogate between them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from threadpoolctl import threadpool_limits

from benchmarks import curves
from benchmarks.source import Curve, draw_points
from benchmarks.surrogate import Surrogate, Table, load_curves
from search.config.schema import StudyConfig

HALVES = ("all", "even", "odd", "table")


@dataclasses.dataclass(frozen=True, slots=True)
class Cifake:
    """A Source. Two trainings of a configuration differ as two seeds did."""

    half: str = "all"
    """Which configurations the curves were learnt from: all, even or odd ones; `table` draws from the trained ones
    themselves, which tells arms apart that do not learn."""

    @property
    def name(self) -> str:
        """See Source."""
        return f"cifake {self.half}"

    @property
    def architecture(self) -> str:
        """See Source."""
        return curves.ARCHITECTURE

    @property
    def max_epochs(self) -> int:
        """See Source."""
        return curves.EPOCHS

    def build_study(self, **search: Any) -> StudyConfig:
        """See Source."""
        return curves.build_study(**search)

    def train(self, params: Mapping[str, Any], seed: Sequence[int]) -> Curve:
        """See Source."""
        surrogate = fit(self.half)
        expected, seconds = surrogate.predict(params)
        accuracies = surrogate.deviate(expected, np.random.default_rng(seed))
        return Curve(accuracies, seconds, 100 * (find_best(self.half) - float(expected.max())))


@functools.cache
def fit(half: str) -> Surrogate | Table:
    """Return the surrogate of one half of the configurations, or of all; or the table itself."""
    trained = load_curves()
    if half == "table":
        return Table(trained)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    part = trained if half == "all" else trained.take(("even", "odd").index(half), 2)
    with threadpool_limits(1):  # the same sums in the same order on any machine of one kind
        return Surrogate(part, deviations=trained)


@functools.cache
def find_best(half: str) -> float:
    """Return the best accuracy that a surrogate expects anywhere: random points, then changes of the best one."""
    generator = np.random.default_rng(0)
    points = draw_points(Cifake(half), 4000)
    found = max(points, key=lambda params: _expect(half, params))
    for _ in range(3000):
        other = points[generator.integers(len(points))]
        kept = generator.random(len(found)) < 0.85
        changed = {name: found[name] if keep else other[name] for name, keep in zip(found, kept, strict=True)}
        found = max(found, changed, key=lambda params: _expect(half, params))
    return _expect(half, found)


def _expect(half: str, params: dict[str, Any]) -> float:
    return float(fit(half).predict(params)[0].max())

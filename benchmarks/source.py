"""The interface of a source for `benchmarks.replay`: a space, and the learning curve of each configuration in it."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from search.config.conditions import Conditions, list_conditions
from search.config.schema import StudyConfig
from search.config.space import build_distributions, list_specs
from search.samplers.sampler import Sampler

Array = NDArray[np.float64]


class Curve(NamedTuple):
    """One training of a configuration."""

    accuracies: Array
    """Accuracies (max_epochs,) on validation, in [0, 1]."""
    seconds: float
    """Duration of an epoch."""
    regret: float
    """Points of accuracy by which the configuration is below the best one; it does not depend on the seed."""


class Searched(Protocol):
    """A study of one architecture; hashable."""

    @property
    def architecture(self) -> str:
        """Architecture whose parameters are searched."""

    @property
    def max_epochs(self) -> int:
        """Epochs of a trial that is not stopped."""

    def build_study(self, **search: Any) -> StudyConfig:
        """Return the study that the curves belong to, with its search changed."""


class Source(Searched, Protocol):
    """Where curves come from. It is a frozen dataclass of a few names, because plans hold it and processes get it."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def train(self, params: Mapping[str, Any], seed: Sequence[int]) -> Curve:
        """Return the curve of a configuration; equal arguments give equal curves.

        Args:
            params: A value for each parameter of the space.
            seed: Root of all random draws of the training; a search passes its own seed and the trial's number.
        """


@functools.cache
def list_distributions(source: Searched) -> dict[str, BaseDistribution]:
    """Return what each parameter may be."""
    return build_distributions(list_specs(source.build_study().space, source.architecture), source.architecture)


@functools.cache
def find_conditions(source: Searched) -> Conditions:
    """Return the conditions of the parameters that have one."""
    return list_conditions(list_specs(source.build_study().space, source.architecture))


def build_sampler(source: Searched, name: str, seed: int) -> Sampler:
    """Return a sampler that learns nothing."""
    return Sampler(name, list_distributions(source), find_conditions(source), seed=seed, startup=1)


def draw_points(source: Source, count: int, *, sampler: str = "random", seed: int = 1) -> list[dict[str, Any]]:
    """Return the first points that a sampler proposes which learns nothing."""
    proposing = build_sampler(source, sampler, seed)
    return [proposing.propose(number) for number in range(count)]

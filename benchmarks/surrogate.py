"""The learning curve of any configuration, predicted from the trained ones of `benchmarks.curves`.

A search asks for configurations that were never trained, and for more of them than a table has: with early stopping,
the epochs of 60 whole trials are enough to start some 200. So a Gaussian process over the parameters predicts the whole
curve. Each trial deviates from it as two trainings of one configuration with two seeds differed from each other. The
prediction decides how good a choice on such curves is, so a lucky seed earns nothing.
"""

import csv
import dataclasses
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from benchmarks.curves import EPOCHS, Kind
from benchmarks.source import list_distributions

Array = NDArray[np.float64]
NUM_ALIKE = 4
"""Number of repeated configurations, nearest in final accuracy, from which deviations are drawn."""
NUM_LATE = 3
"""Number of epochs at the end of a curve that count as late."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """The trained configurations and their curves."""

    kind: Kind
    numbers: Array
    """(N,) configurations, ascending."""
    params: list[dict[str, Any]]
    """Searched parameters of each configuration."""
    accuracies: Array
    """Accuracies (N, EPOCHS) on validation, of seed 0."""
    seconds: Array
    """(N,) CPU-seconds of an epoch."""
    repeats: dict[int, Array]
    """Accuracies (EPOCHS,) of seed 1, by position in `numbers`."""

    def take(self, rest: int, of: int) -> "Curves":
        """Return the configurations whose number modulo `of` is `rest`, with their repeats."""
        kept = [place for place, number in enumerate(self.numbers) if number % of == rest]
        return dataclasses.replace(
            self,
            numbers=self.numbers[kept],
            params=[self.params[place] for place in kept],
            accuracies=self.accuracies[kept],
            seconds=self.seconds[kept],
            repeats={kept.index(place): curve for place, curve in self.repeats.items() if place in kept},
        )


def load_curves(kind: Kind, num: int | None = None) -> Curves:
    """Read the trained configurations, those that did not diverge; `num` takes the first so many."""
    distributions = list_distributions(kind)
    first: dict[int, tuple[dict[str, Any], list[float], float]] = {}
    second: dict[int, Array] = {}
    with kind.table.open(newline="") as file:
        for row in csv.DictReader(file):
            curve = [row[f"epoch_{epoch}"] for epoch in range(1, EPOCHS + 1)]
            if "" in curve:
                continue
            params = {name: _parse(row[name], each) for name, each in distributions.items() if row[name] != ""}
            if row["seed"] == "0":
                first[int(row["number"])] = params, [float(value) for value in curve], float(row["seconds"])
            else:
                second[int(row["number"])] = np.array(curve, dtype=float)
    numbers = sorted(first)[:num]
    return Curves(
        kind=kind,
        numbers=np.array(numbers),
        params=[first[number][0] for number in numbers],
        accuracies=np.array([first[number][1] for number in numbers]),
        seconds=np.array([first[number][2] for number in numbers]),
        repeats={place: second[number] for place, number in enumerate(numbers) if number in second},
    )


def encode(kind: Kind, params: Mapping[str, Any]) -> list[float]:
    """Return a point of the unit cube: numbers by their place in their range, names as one coordinate each.

    A number whose condition does not hold is in the middle.
    """
    point: list[float] = []
    for name, distribution in list_distributions(kind).items():
        value = params.get(name)
        if value is None:
            point.append(0.5)
        elif isinstance(distribution, IntDistribution | FloatDistribution):
            scale: Callable[[float], float] = np.log if distribution.log else float
            low, high = scale(distribution.low), scale(distribution.high)
            point.append((scale(value) - low) / (high - low))
        elif isinstance(distribution.choices[0], str):
            point += [float(value == choice) for choice in distribution.choices[1:]]
        else:
            point.append(distribution.choices.index(value) / (len(distribution.choices) - 1))
    return point


class Surrogate:
    """A function from parameters to learning curves, fitted once."""

    def __init__(self, curves: Curves, deviations: Curves | None = None) -> None:
        """Fit.

        Args:
            curves: Curves to learn from.
            deviations: Curves from whose repeats deviations are drawn; None takes those of `curves`.
        """
        self.points = np.array([encode(curves.kind, params) for params in curves.params])
        self._curves = curves
        self._mean = curves.accuracies.mean(0)
        kernel = ConstantKernel(1.0, (1e-1, 1e2)) * Matern(
            np.full(self.points.shape[1], 2.0), (0.2, 50.0), nu=2.5
        ) + WhiteKernel(0.1, (1e-3, 1.0))
        self._scale = curves.accuracies.std(0) + 1e-6
        targets = (curves.accuracies - self._mean) / self._scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound: a parameter without effect
            # One kernel for all epochs, fitted by the likelihood of the first, a middle and the last epoch.
            fitted = GaussianProcessRegressor(kernel, random_state=0).fit(self.points, targets[:, [0, 2, EPOCHS - 1]])
        self._lengths = fitted.kernel_.k1.k2.length_scale
        self._signal = fitted.kernel_.k1.k1.constant_value
        self._noise = fitted.kernel_.k2.noise_level
        inverse = np.linalg.inv(self._cover(self.points) + self._noise * np.eye(len(self.points)))
        self._weights = inverse @ targets
        left_out = targets - self._weights / np.diag(inverse)[:, None]
        self.left_out = left_out * self._scale + self._mean
        """(N, EPOCHS): each training's curve as predicted from all others."""
        log_seconds = np.log(curves.seconds)
        self._log_mean = log_seconds.mean()
        self._second_weights = inverse @ (log_seconds - self._log_mean)
        source = deviations or curves
        pairs = sorted(source.repeats.items())
        self._deviations = np.array([(curve - source.accuracies[place]) / np.sqrt(2.0) for place, curve in pairs])
        self._finals = np.array([source.accuracies[place, -1] for place, _ in pairs])

    def predict(self, params: Mapping[str, Any]) -> tuple[Array, float]:
        """Return the accuracies (EPOCHS,) to expect, and the seconds of an epoch."""
        cover = self._cover(np.array([encode(self._curves.kind, params)]))[0]
        curve = np.clip(cover @ self._weights * self._scale + self._mean, 0.0, 1.0)
        return curve, float(np.exp(cover @ self._second_weights + self._log_mean))

    def deviate(self, curve: Array, generator: np.random.Generator) -> Array:
        """Return the curve of one training of a configuration with this expected curve.

        With a lucky seed it rises sooner, but ends higher only by as much as late epochs of two seeds differ.
        """
        alike = np.argsort(np.abs(self._finals - curve[-1]), kind="stable")[:NUM_ALIKE]
        sign = 1.0 if generator.random() < 0.5 else -1.0
        deviation = sign * self._deviations[generator.choice(alike)]
        return np.clip(curve + deviation, 0.0, curve.max() + np.abs(deviation[-NUM_LATE:]).max())

    def _cover(self, points: Array) -> Array:
        """Matern 5/2, Rasmussen and Williams 2006, eq. 4.17."""
        gaps = (points[:, None, :] - self.points[None, :, :]) / self._lengths
        distance = np.sqrt(5.0 * (gaps**2).sum(-1))
        return self._signal * (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)


class Table:
    """The trained curves themselves; each configuration gets one of them at random. For samplers that do not learn."""

    def __init__(self, curves: Curves) -> None:
        self._curves = curves

    def predict(self, params: Mapping[str, Any]) -> tuple[Array, float]:
        """See Surrogate."""
        lot = zlib.crc32(repr(sorted(params.items())).encode()) % len(self._curves.params)
        return self._curves.accuracies[lot], float(self._curves.seconds[lot])

    def deviate(self, curve: Array, generator: np.random.Generator) -> Array:  # noqa: ARG002 as Surrogate's
        """Return the curve itself, since it is that of one training."""
        return curve


def _parse(text: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return next(choice for choice in distribution.choices if str(choice) == text)
    return int(text) if isinstance(distribution, IntDistribution) else float(text)

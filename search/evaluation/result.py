"""The result of an evaluation: all data that the report and the trackers show."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.config.data import CIFAKE, Classes
from search.config.fields import Count, Finite, Index, Label, Temperature
from search.config.schema import StudyConfig
from search.record.trial import Trial

RATES = (
    *("accuracy", "precision", "recall", "f1", "precision_fake", "recall_fake", "f1_fake"),
    *("auroc", "average_precision", "ece"),
)
"""Metrics in [0, 1]; for those that end in _fake, the class with label 0 is the positive one."""
Key = tuple[str, int]
"""Architecture and rank, which identify a configuration."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TestedModel:
    """One retrained winner, tested once."""

    label: Label
    """Name of its files in models/, such as cnn-seed0."""
    architecture: str
    """Name of its architecture."""
    rank: Count
    """1 for the architecture's best configuration on validation, which the comparison shows."""
    seed: Index
    """Number of the retraining, from 0."""
    trial: Index
    """Number of the trial whose configuration it is."""
    parameters: Index
    """Parameters of the model."""
    threshold: Finite
    """An image is called positive above this probability, a float32 below 1; below 0 calls all images positive."""
    metrics: dict[str, Finite]
    """RATES, brier and loss; with a temperature other than 1 also ece_uncalibrated, the ece without the temperature."""
    confusion: tuple[tuple[Index, Index], tuple[Index, Index]]
    """Counts of test images by label: rows true, columns predicted."""
    cost: dict[str, Finite]
    """macs (per image), training_seconds, images_per_second_1 and images_per_second_256 (prediction at these batch
    sizes), peak_memory_bytes (of training: tensors on a GPU, else the whole process); unknown ones are missing."""
    temperature: Temperature = 1.0
    """Number by which the logits are divided before they become probabilities."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Values of a winner that a training on train alone gives, on validation."""

    threshold: float
    """Threshold with the highest accuracy on validation."""
    temperature: float
    """Temperature with the lowest log loss on validation, or as the study sets it."""
    curve: tuple[float, ...]
    """Metric of the study by epoch."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mistake:
    """A test image that a model classified wrongly."""

    image: NDArray[np.uint8]
    """(size, size, 3), RGB."""
    truth: int
    """Label, 0 or 1."""
    probability: float
    """Probability of label 1, in [0, 1]."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FurtherResult:
    """The probabilities of the models for further images."""

    kind: str
    """`perturbation` of the test split, or `source` for images of another source."""
    name: str
    labels: NDArray[np.uint8]
    """(M,): 0 or 1; for a perturbation those of the test split."""
    predictions: dict[str, NDArray[np.float32]]
    """Label of a model -> probabilities (M,) of label 1; models that were not scored are missing."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """All data that a report shows."""

    study: str
    """Name of the study."""
    config: StudyConfig
    manifest: Mapping[str, Any]
    """study.yaml: config, data, code, evaluations."""
    models: list[TestedModel]
    trials: list[Trial]
    """All trials of the study, by number."""
    labels: NDArray[np.uint8]
    """(M,): 0 or 1, of every test image."""
    predictions: dict[str, NDArray[np.float32]]
    """Label of a model -> probabilities (M,) of label 1 of every test image, in [0, 1]."""
    mistakes: dict[str, list[Mistake]]
    """Label of a model -> its mistakes, the most confident first."""
    notes: list[str]
    """Sentences under the table."""
    further: list[FurtherResult] = dataclasses.field(default_factory=list)
    """Further tests on which at least one model was scored."""

    @property
    def classes(self) -> Classes:
        """Names of the classes in the order of their labels, 0 and 1."""
        negative, positive = self.manifest.get("data", {}).get("classes", CIFAKE)
        return negative, positive

    @property
    def choices(self) -> Mapping[str, Any]:
        """The last entry of `evaluations` in study.yaml; empty before the first."""
        evaluations: list[Mapping[str, Any]] = self.manifest.get("evaluations") or [{}]
        return evaluations[-1]

    @property
    def groups(self) -> dict[Key, list[TestedModel]]:
        """The models of each configuration."""
        groups: dict[Key, list[TestedModel]] = {}
        for tested in self.models:
            groups.setdefault((tested.architecture, tested.rank), []).append(tested)
        return groups

    @property
    def winners(self) -> dict[str, list[TestedModel]]:
        """The models of each architecture's best configuration."""
        return {architecture: models for (architecture, rank), models in self.groups.items() if rank == 1}

    @property
    def baselines(self) -> dict[Key, str]:
        """Names of the recipes retrained as baselines, by architecture and rank, without winners."""
        return {
            (winner["architecture"], winner["rank"]): winner["recipe"].replace("_", " ")
            for winner in self._list_others()
            if winner.get("recipe")
        }

    @property
    def front(self) -> dict[Key, str]:
        """Names of the configurations that are retrained only for the front, by architecture and rank."""
        return {
            (winner["architecture"], winner["rank"]): f"{winner['architecture']}, trial {winner['trial']}"
            for winner in self._list_others()
            if winner.get("front") and not winner.get("recipe")
        }

    def _list_others(self) -> list[Mapping[str, Any]]:
        """Return the configurations that are retrained in addition to the winners."""
        return [winner for winner in self.choices.get("winners", ()) if winner["rank"] > self.choices["top_k"]]

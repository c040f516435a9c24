"""The choices of an evaluation, as study.yaml records them under `evaluations`.

Each set of choices is one entry; the last one counts. An entry is written before the test split is opened; `opened` is
added just before the opening.
"""

import dataclasses
from typing import Literal

from search.config.fields import Architecture, Best, Count, Digest, Few, Finite, Index, Label, Perturbation, Temperature
from search.config.schema import pick_seeds
from trainables.names import shorten


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """One configuration to retrain."""

    architecture: Architecture
    rank: Count
    """1 for the best of its architecture on validation."""
    trial: Index
    value: Best
    """Best value of the validation metric in the trial."""
    epochs: Count
    """Epochs of a retraining: up to the epoch of this value, or all of the schedule."""
    threshold: Finite | None
    """Probability above which an image is called positive, a float32; None until validation has chosen it."""
    temperature: Temperature | None = 1.0
    """Number that divides its logits before they become probabilities; None until it is fitted on validation."""
    recipe: str | None = None
    """Recipe that it comes from, if that recipe may be a baseline."""
    front: bool = False
    """Whether it is on the front of metric and cost, if `evaluation.front` is true."""
    curve: tuple[float, ...] | None = None
    """Validation metric by epoch of a training on train alone; empty if that failed. Only if the retrainings have other
    images than the search."""
    failure: str | None = None
    """Why the training on train alone failed; temperature and curve are then missing."""

    def is_trained_like(self, other: "Winner") -> bool:
        """Return whether its trainings are those of another winner."""
        names = "architecture", "rank", "trial", "epochs"
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def complete(
        self,
        threshold: float | None,
        temperature: float | None,
        curve: tuple[float, ...] | None,
        failure: str | None = None,
    ) -> "Winner":
        """Return this winner with those values from validation that it lacks, or with why there are none."""
        return dataclasses.replace(
            self,
            failure=failure,
            threshold=threshold if self.threshold is None else self.threshold,
            temperature=temperature if self.temperature is None else self.temperature,
            curve=curve if self.curve is None else self.curve,
        )

    @property
    def label(self) -> str:
        """Prefix of the files of its retrainings."""
        return shorten(self.architecture) + ("" if self.rank == 1 else f"-rank{self.rank}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Images of another source on which every model is scored."""

    name: Label
    path: str = dataclasses.field(compare=False)
    """Folder or zip. Moved images are the same images, so sources are compared by their fingerprints."""
    fingerprint: Digest
    """Fingerprint of the images that are scored."""
    counts: tuple[Index, Index]
    """Number of these images by label."""
    copies: Index = 0
    """Images left out, because a training image has the same pixels."""
    alike: Index = 0
    """Images left out, because a training image looks like them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Time and commit of an action."""

    time: str
    """In UTC, ISO 8601."""
    commit: str | None
    dirty: bool | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Everything that is decided before the test split is opened."""

    rule: str
    """How the winners were chosen and will be tested, in words."""
    seeds: Few | dict[Label, Few]
    """Retrainings of each winner, or their number by architecture and recipe."""
    top_k: Few
    """Largest number of winners of each architecture; their configurations are distinct."""
    threshold: Finite | Literal["validation"]
    """The decision threshold, or `validation`."""
    temperature: Temperature | Literal["validation"] = 1.0
    """The temperature of all models, or `validation`."""
    fingerprint: str
    """Fingerprint of the data."""
    calibrate: Literal["all"] | tuple[Label, ...] = dataclasses.field(default="all", compare=False)
    """Architectures whose winners may be trained on train alone; what this changes is compared in `winners`."""
    max_train_images: Count | Literal["all"] | None = None
    """Images of the retrainings; None is those of the search."""
    perturbations: tuple[Perturbation, ...] = ()
    """Changes of the test images on which each model is scored too."""
    sources: tuple[Source, ...] = ()
    """Images of other sources on which each model is scored too."""
    winners: tuple[Winner, ...]
    """The winners, then the baselines and the trials of the front, whose rank is above `top_k`."""

    def needs_calibration(self, winner: Winner) -> bool:
        """Return whether a winner still needs a training on train alone, for threshold, temperature or curve."""
        has_curve = self.max_train_images is not None and winner.rank <= self.top_k
        lacks = None in (winner.threshold, winner.temperature) or (has_curve and winner.curve is None)
        return lacks and self._may_calibrate(winner)

    def count_seeds(self, winner: Winner) -> int:
        """Return the number of retrainings of a winner."""
        return pick_seeds(self.seeds, winner.architecture, winner.recipe if winner.rank > self.top_k else None)

    def find_measured(self, winner: Winner) -> Winner | None:
        """Return the same winner if these choices have values that validation gave for it."""
        is_measured = self._may_calibrate(winner) and (winner.rank <= self.top_k or self.threshold == "validation")
        return next((each for each in self.winners if is_measured and each.is_trained_like(winner)), None)

    def is_measured_like(self, other: "Choices") -> bool:
        """Return whether the same trainings give the values from validation of these and of other choices."""
        names = "fingerprint", "max_train_images", "threshold", "temperature"
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def _may_calibrate(self, winner: Winner) -> bool:
        return self.calibrate == "all" or shorten(winner.architecture) in self.calibrate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Choices):
    """An entry of `evaluations`: the choices, their time, and the time of the opening of the test split."""

    chosen: Stamp
    opened: Stamp | None

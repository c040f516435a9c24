"""What an evaluation found: all that a report, a tracker or a reader is told."""

import dataclasses

from search.journal import Trial


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TestedModel:
    """One retrained winner, tested once."""

    architecture: str
    """Key of trainables.config.MODEL_CONFIGS."""
    rank: int
    """1 for the architecture's best configuration on validation, which is the one compared."""
    seed: int
    """Number of the retraining, from 0."""
    parameters: int
    """Parameters of the model."""
    metrics: dict[str, float]
    """accuracy, precision, recall, f1, auroc, in [0, 1], and loss."""
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """Counts of test images: rows true FAKE, REAL; columns predicted FAKE, REAL."""
    trial: int
    """Number of the trial whose configuration it is."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that a report says."""

    study: str
    """Name of the study."""
    models: list[TestedModel]
    trials: list[Trial]
    notes: list[str]
    """Sentences to print under the table."""

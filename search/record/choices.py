"""What was chosen for an evaluation, as study.yaml records it under `evaluations`.

One entry per set of choices, the last one in force. An entry is written whole before the test split is opened, and gets
`opened` when it is about to be.
"""

import dataclasses
from typing import Literal

from search.config.schema import Architecture, Count, Few, Finite, Index


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """One configuration to retrain."""

    architecture: Architecture
    rank: Count
    """1 for the best of its architecture on validation."""
    trial: Index
    accuracy: Finite
    """Its best on validation."""
    epochs: Count
    """Where it had it: so long is it retrained."""
    threshold: Finite | None
    """An image is called REAL where its probability is above this, a float32; None until it is chosen on validation."""
    recipe: str | None = None
    """Name of the recipe whose point it is, if baselines are wished and it is one's."""

    @property
    def label(self) -> str:
        """Name that the files of its retrainings begin with."""
        return self.architecture + ("" if self.rank == 1 else f"-rank{self.rank}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """When something was done, and by which code."""

    time: str
    """In UTC, ISO 8601."""
    commit: str | None
    dirty: bool | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """All that is decided before the test split is opened."""

    rule: str
    """How the winners were chosen and will be tested."""
    seeds: Few
    """Retrainings of each winner."""
    top_k: Few
    """Winners of each architecture, at most; distinct configurations."""
    threshold: Finite | Literal["validation"]
    """The decision threshold, or `validation`."""
    fingerprint: str
    """Of the data."""
    winners: tuple[Winner, ...]
    """And the baselines, which are those of a rank beyond `top_k`."""

    def is_open(self) -> bool:
        """Answer whether a threshold is still to be chosen."""
        return any(winner.threshold is None for winner in self.winners)

    def is_same(self, other: "Choices") -> bool:
        """Answer whether the other choices are these, whatever thresholds validation gave."""
        return self._blank() == other._blank()

    def _blank(self) -> "Choices":
        winners = tuple(dataclasses.replace(winner, threshold=None) for winner in self.winners)
        return dataclasses.replace(self, winners=winners)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Choices):
    """An entry of `evaluations`: what was chosen when, and when the test split was opened for it."""

    chosen: Stamp
    opened: Stamp | None

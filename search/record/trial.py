"""One trial, as the journal has it; the best ones of several."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from trainables.parameters import LARGEST, is_storable

NO_MEMORY = ("out of gpu memory", "outofmemory", "memoryerror", "allocate memory", "running low on memory")
"""Texts in the reasons of trials for which the memory was too small: PyTorch's, Python's and Ray's words."""
FOREIGN = "foreign"
"""In place of the architecture of a foreign trial, and of a trial that waits."""


class State(enum.StrEnum):
    """State of a trial; the names are Optuna's."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


@dataclasses.dataclass(slots=True, kw_only=True)
class Trial:
    """One configuration's training, as recorded."""

    number: int
    """Position in the study, from 0."""
    architecture: str
    """Name of its architecture or training function; `foreign` for a trial that plain Optuna wrote, until it starts."""
    params: dict[str, Any]
    """Flat parameters, as trainables.config.build_train_config takes them."""
    epochs: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """Metrics of epoch 1, 2, ... in order."""
    metric: str = "accuracy"
    """Validation metric by which the study compares its trials."""
    sign: int = 1
    """1 if larger values of the metric are better, -1 if smaller ones are."""
    state: State = State.RUNNING
    """RUNNING until it ends."""
    reason: str | None = None
    """Why it is PRUNED, FAIL, or COMPLETE before its last epoch. A RUNNING trial has a reason if a kill came between
    the lines for reason and state."""
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """seconds, device, precision, images_per_second."""
    noted: dict[str, Any] = dataclasses.field(default_factory=dict)
    """System attributes that the sampler wrote about it, in Optuna's own form."""
    enqueued: dict[str, Any] | None = None
    """The point that plain Optuna's `enqueue_trial` asked for; None for all other trials."""
    waits: bool = False
    """Whether it was enqueued and has not started yet; its state is RUNNING then."""
    started: datetime | None = dataclasses.field(default=None, compare=False)
    """Time at which it was proposed, in local time."""
    ended: datetime | None = dataclasses.field(default=None, compare=False)
    """Time at which its state became final, in local time."""

    @property
    def name(self) -> str:
        """Its number and architecture, for a line of text."""
        return f"trial {self.number} {self.architecture}"

    @property
    def is_foreign(self) -> bool:
        """Whether another program wrote it, so that nothing is known of its training."""
        return self.architecture == FOREIGN

    @property
    def lacked_memory(self) -> bool:
        """Whether it failed because the memory was too small for its configuration."""
        told = f"{self.reason} {self.attributes.get('traceback')}".lower()
        return self.state is State.FAIL and any(words in told for words in NO_MEMORY)

    def list_values(self) -> list[float]:
        """Return the validation metric of epoch 1, 2, ..."""
        return [metrics[self.metric] for metrics in self.epochs]

    def list_scores(self) -> list[float]:
        """Return the validation metric of epoch 1, 2, ..., its sign changed if smaller values are better."""
        return [self.sign * value for value in self.list_values()]

    @property
    def score(self) -> float:
        """The best of the scores, by which trials are ranked: larger is better; there must be an epoch."""
        return max(self.list_scores())

    def measure_cost(self) -> dict[str, Any]:
        """Return the seconds of all epochs, and mean speed and peak memory if they were measured."""
        cost: dict[str, Any] = {"seconds": round(sum(metrics.get("seconds", 0.0) for metrics in self.epochs), 3)}
        if self.epochs and "images_per_second" in self.epochs[-1]:
            speeds = [metrics.get("images_per_second", 0.0) for metrics in self.epochs]
            cost["images_per_second"] = round(sum(speeds) / len(speeds), 1)
        if self.epochs and "peak_memory_bytes" in self.epochs[-1]:
            cost["peak_memory_bytes"] = max(metrics["peak_memory_bytes"] for metrics in self.epochs)
        return cost

    def get_peak(self) -> tuple[float, int]:
        """Return the best value and the first epoch that had it; there must be an epoch."""
        scores = self.list_scores()  # once: while the live view reads, the driver may add an epoch
        epoch = scores.index(max(scores))
        return self.sign * scores[epoch], epoch + 1

    def find_problem(self, metrics: Mapping[str, float]) -> str | None:
        """Return in words why an epoch cannot be recorded, or None."""
        for name, value in {self.metric: None, **metrics}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not is_storable(value):
                return f"{name} of epoch {len(self.epochs) + 1} is {value!r}, not a finite number up to {LARGEST:g}"
        return None


class Listener:
    """Is called at each event, in the driver's process, after it was recorded. A subclass may leave events out."""

    def on_start(self, trial: Trial) -> None:
        """A trial started or was resumed; a resumed trial already has epochs."""

    def on_epoch(self, trial: Trial) -> None:
        """The last of `trial.epochs` is new."""

    def on_end(self, trial: Trial) -> None:
        """The trial's state is final."""

    def close(self) -> None:
        """No event will follow."""


def find_best(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Return each architecture's best trial on validation, by name, without failed ones."""
    best: dict[str, Trial] = {}
    for trial in rank_trials(trials):
        best.setdefault(trial.architecture, trial)
    return dict(sorted(best.items()))


def rank_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have an epoch and did not fail, best on validation first, the earlier one in a tie."""
    able = [trial for trial in trials if trial.epochs and trial.state is not State.FAIL]
    return sorted(able, key=lambda trial: (-trial.score, trial.number))

"""The messages between the driver and its workers: plain data, without torch and Ray."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from search.record.checkpoints import Checkpoint

IDENTITY = ("architecture", "params", "seed", "max_epochs", "epochs", "val_fraction", "max_train_images", "split_seed")
"""Fields that determine the training of a job."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training that a worker runs: that of a trial, or a retraining."""

    label: str
    """Name of the job in messages, and of its checkpoint, such as trial-3 or cnn-seed0."""
    number: int
    """Number in its source, such as the trial's in its study."""
    architecture: str
    params: dict[str, Any]
    seed: int
    """Root of the training's random draws."""
    max_epochs: int
    """Length of the schedule."""
    epochs: int
    """Last epoch to train, at most `max_epochs`."""
    metric: str | None = None
    """Metric that each epoch of a training function must yield."""
    epochs_done: int = 0
    """Number of epochs that the source has recorded; they are not reported again."""
    key: bytes = dataclasses.field(default=b"", repr=False)
    """Secret of the driver's user, with which the checkpoints of a training function are signed."""
    code: str | None = None
    """Folder of the user's own modules."""
    own_hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of these modules on the driver's node, by their path."""
    pack: str | None
    """Folder of the packed images; None for a training function of the user."""
    val_fraction: float | None
    """Share of the training images that is for validation; None trains on all of them, without validation."""
    max_train_images: int | None
    split_seed: int
    """Seed of the train/validation split, the same for all jobs of a study."""
    checkpoint: str | None
    """File of the checkpoint, where `~` is the home of the worker; None keeps no checkpoint."""
    url: str | None = None
    """URL of the study if it is in an object store, which then gets a copy of the checkpoint."""
    cpus: float
    """Granted cores, which are also the number of threads."""
    gpus: float
    """Granted GPUs; 0 trains on the CPU, a fraction may use that share of the memory."""
    precision: str | None = None
    """Precision of its recorded epochs; None if there are none, or if it is not known."""

    def describe(self) -> str:
        """Return the identity of the training, the same on every node and after any number of epochs."""
        known = {name: getattr(self, name) for name in IDENTITY}
        return json.dumps(known | {"pack": self.pack and Path(self.pack).name}, sort_keys=True)

    def build_checkpoint(self) -> Checkpoint | None:
        """Return where the checkpoint is stored, on the node that asks."""
        if self.checkpoint is None:
            return None
        path = Path(self.checkpoint).expanduser()
        return Checkpoint(path=path, name=self.label, identity=self.describe(), url=self.url, key=self.key)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """One epoch of a job."""

    metrics: dict[str, float]
    device: str
    """Name of the device that trained it."""
    precision: str | None = None
    """Its precision, float32 or bfloat16; None for a training function of the user."""
    is_new: bool = True
    """Whether it was trained now, and not read from a checkpoint."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The last message of a job that has a result after its last epoch, or that ends before its last epoch."""

    result: Any = None
    """The result, such as a tested model."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a job cannot continue."""

    reason: str
    traceback: str
    disk_fault: int | None = None
    """Number of the error if a disk failed. The run then ends, can be resumed, and the job does not count as failed."""
    blames_function: bool = False
    """Whether a training function is wrong for every trial. The run then ends in the same way."""
    is_breakdown: bool = False
    """Whether its worker broke down too often: it was killed or lost its GPU. Started again, the job may succeed."""


Work = Callable[[Job], Iterator[Report | Finished | Failure]]
"""Function that a worker calls with a job; it yields messages. It is sent to the worker, so it must be picklable."""


class NodeError(RuntimeError):
    """A node on which no job may run; the message names the node, what is wrong, and the cure.

    No job counts as failed, because the node would refuse the next job too: the run ends, and can be resumed.
    """


class JobSource(Protocol):
    """Hands out jobs and receives their messages, in the driver's process."""

    @property
    def halt_reason(self) -> str | None:
        """Why no job may continue, or None."""

    def ask(self) -> Job | None:
        """Hand out the next job; None when there are no more."""

    def report(self, number: int, message: Report | Finished) -> bool:
        """Receive a message of a job and return whether the job ends with it."""

    def fail(self, number: int, failure: Failure) -> None:
        """Receive that a job failed; the other jobs continue."""

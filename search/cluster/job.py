"""What driver and worker tell each other: plain data, no torch and no Ray."""

import dataclasses
import json
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that a worker needs to know of one trial."""

    number: int
    """The trial's number in its study."""
    architecture: str
    params: dict[str, Any]
    seed: int
    """The trial's own seed."""
    max_epochs: int
    """Length of the schedule."""
    epochs_done: int
    """Epochs that the record holds already."""
    pack: str
    """Folder of the packed images."""
    val_fraction: float
    max_train_images: int | None
    split_seed: int
    """Seed of the train/validation split, the same for all trials of a study."""
    checkpoint: str
    """File of the trial's checkpoint; `~` is the home of whoever trains."""
    cpus: float
    """Granted cores, and so threads."""
    gpus: float
    """Granted GPUs; 0 trains on the CPU, a fraction may use that share of the memory."""
    url: str | None = None
    """Of the study in an object store, if it lies in one."""

    def describe(self) -> str:
        """Return all that makes the training what it is, wherever and however far it is trained."""
        mine = ("architecture", "params", "seed", "max_epochs", "val_fraction", "max_train_images", "split_seed")
        known = {name: getattr(self, name) for name in mine}
        return json.dumps(known | {"pack": Path(self.pack).name}, sort_keys=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """One epoch, on its way to the driver."""

    metrics: dict[str, float]
    device: str


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial cannot go on."""

    reason: str
    traceback: str
    disk_fault: int | None = None
    """Number of the error, if a disk failed. Not the trial's fault: the search ends, and the trial goes on when it is
    resumed."""

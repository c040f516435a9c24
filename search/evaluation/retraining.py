"""One retraining: what is trained, where its model and its checkpoint lie, and what it gave if it is done."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from search.cluster.shelf import Shelf
from search.cluster.store import Store
from search.evaluation.model_file import CARD, PREDICTIONS, RECORD, WEIGHTS, check_files, load_predictions, load_record
from search.evaluation.result import Mistake, TestedModel
from trainables.config import TrainConfig, build_train_config
from trainables.errors import InputError
from trainables.metrics import to_probabilities


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """One winner, one seed: all that a worker needs, and what is written beside the weights."""

    label: str
    """Name of the files in models/."""
    architecture: str
    rank: int
    """1 for the best configuration of its architecture."""
    seed: int
    """Number of the retraining, from 0."""
    trial: int
    """Whose configuration it is."""
    params: dict[str, Any]
    train_seed: int
    """Root of the retraining's random draws."""
    max_epochs: int
    """Length of the schedule."""
    epochs: int
    """Epochs to train: where the trial was best on validation."""
    max_train_images: int | None
    split_seed: int
    fingerprint: str
    """Of the data."""
    threshold: float
    """A test image is called REAL where its probability is above this."""

    def describe(self) -> str:
        """Return all that makes the model what it is, as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def build_config(self) -> TrainConfig:
        """Return what is trained."""
        return build_train_config(self.architecture, self.params, epochs=self.max_epochs, seed=self.train_seed)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where models and the checkpoints of their trainings lie, for the worker that is asked."""

    folder: str
    """`~` is the worker's home."""
    url: str | None = None
    """Of the study in an object store, if it lies in one: models and checkpoints are then there too."""

    @property
    def path(self) -> Path:
        """Return the folder."""
        return Path(self.folder).expanduser()

    def build_shelf(self, label: str, identity: str = "") -> Shelf:
        """Return where a training's checkpoint lies."""
        return Shelf(path=self.path / f"{label}.ckpt", name=label, identity=identity, url=self.url)

    def ship(self, label: str) -> None:
        """Put a model into the store, its record last."""
        if self.url is not None:
            store = Store(self.url)
            for suffixes in ((WEIGHTS, PREDICTIONS, CARD), (RECORD,)):
                store.upload({f"models/{label}{suffix}": self.path / f"{label}{suffix}" for suffix in suffixes})


def load_tested(folder: Path, retraining: Retraining) -> TestedModel | None:
    """Return what an earlier evaluation found for exactly this retraining; None if there is none, or not whole."""
    path = folder / (retraining.label + RECORD)
    if not path.exists():
        return None
    try:
        record = load_record(path)
        check_files(folder, record)
    except InputError:
        return None
    if record.retraining != json.loads(retraining.describe()):
        return None
    return TestedModel(**record.tested | {"confusion": tuple(tuple(row) for row in record.tested["confusion"])})


def load_tests(folder: Path, label: str) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[Mistake]]:
    """Return the labels (M,) of all test images, a model's probabilities of REAL (M,), and its worst mistakes."""
    found = load_predictions(folder, load_record(folder / (label + RECORD)))
    labels, probabilities = found["labels"], found.get("probabilities")
    if probabilities is None:  # which older evaluations stored
        probabilities = to_probabilities(torch.from_numpy(found["logits"])).numpy()
    mistakes = [
        Mistake(image=image, truth=int(labels[index]), probability=float(probabilities[index]))
        for index, image in zip(found["mistakes"], found["mistake_images"], strict=True)
    ]
    return labels, probabilities, mistakes

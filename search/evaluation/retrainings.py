"""One retraining: what is trained, where its model and its checkpoint lie, and what it gave if it is done."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from search.evaluation.model_file import (
    CARD,
    PREDICTIONS,
    RECORD,
    WEIGHTS,
    check_files,
    check_predictions,
    load_predictions,
    load_record,
)
from search.evaluation.model_record import Retraining
from search.evaluation.result import Mistake, TestedModel
from search.record.checkpoints import Shelf
from search.record.object_store import Store
from trainables.errors import InputError
from trainables.metrics import to_probabilities


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
    record = load_record(folder / (label + RECORD))
    found = load_predictions(folder, record)
    check_predictions(found, record)
    labels, probabilities = found["labels"], to_probabilities(torch.from_numpy(found["logits"])).numpy()
    mistakes = [
        Mistake(image=image, truth=int(labels[index]), probability=float(probabilities[index]))
        for index, image in zip(found["mistakes"], found["mistake_images"], strict=True)
    ]
    return labels, probabilities, mistakes

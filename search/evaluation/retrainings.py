"""One retraining: its job, the places of its model and its checkpoint, and its result if it has ended."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from search.cluster.job import Job
from search.config.schema import ResourceConfig
from search.evaluation.model_file import (
    CARD,
    KINDS,
    PREDICTIONS,
    RECORD,
    WEIGHTS,
    TrainedModel,
    check_files,
    check_predictions,
    load_model,
    load_predictions,
    load_record,
)
from search.evaluation.model_record import Retraining
from search.evaluation.result import Mistake, TestedModel
from search.record.checkpoints import Checkpoint
from search.record.object_store import Store
from trainables.errors import InputError
from trainables.metrics import to_probabilities
from trainables.names import require_imported


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFolder:
    """The folder of models and of checkpoints of their trainings, on the node that uses it."""

    folder: str
    """Path; `~` is the home of the worker."""
    url: str | None = None
    """URL of the study if it is in an object store, which then gets models and checkpoints too."""

    @property
    def path(self) -> Path:
        """Return the folder."""
        return Path(self.folder).expanduser()

    def get_checkpoint(self, label: str) -> str:
        """Return the file of a training's checkpoint."""
        return f"{self.folder}/{label}.ckpt"

    def delete_checkpoint(self, label: str) -> None:
        """Delete a training's checkpoint, here and in the store."""
        Checkpoint(path=Path(self.get_checkpoint(label)).expanduser(), name=label, identity="", url=self.url).delete()

    def upload(self, label: str) -> None:
        """Put a model into the store, its record last."""
        if self.url is not None:
            store = Store(self.url)
            for suffixes in ((WEIGHTS, PREDICTIONS, CARD), (RECORD,)):
                store.upload({f"models/{label}{suffix}": self.path / f"{label}{suffix}" for suffix in suffixes})

    def upload_file(self, name: str) -> None:
        """Put one more file of a model into the store."""
        if self.url is not None:
            Store(self.url).upload({f"models/{name}": self.path / name})

    def load(self, label: str, weights: str) -> TrainedModel:
        """Load a model whose file of weights has this SHA-256, from the store if this node has another model or none.

        Raises:
            InputError: If it is missing, damaged or altered.
        """
        try:
            is_here = load_record(self.path / f"{label}{RECORD}").sha256["weights"] == weights
        except InputError:
            is_here = False
        if not is_here and self.url is not None:
            names = f"{label}{WEIGHTS}", f"{label}{RECORD}"
            Store(self.url).download({f"models/{name}": self.path / name for name in names})
        model = load_model(self.path / f"{label}{WEIGHTS}")
        if model.record.sha256["weights"] != weights:
            raise InputError(f"the model {label} was replaced while it was tested: evaluate the study again")
        return model


def build_job(
    retraining: Retraining,
    pack: Path,
    granted: ResourceConfig,
    *,
    number: int = 0,
    folder: ModelFolder | None = None,
    val_fraction: float | None = None,
    code: str | None = None,
    own_hashes: Mapping[str, str] | None = None,
) -> Job:
    """Return the job of a retraining.

    Args:
        retraining: The retraining.
        pack: Folder of the packed images.
        granted: Resources of the training.
        number: Position among the jobs that run together.
        folder: Folder of the checkpoint; None keeps none.
        val_fraction: Share of the images that is for validation; None trains on all.
        code: Folder of the user's own modules.
        own_hashes: SHA-256 of these modules, as `hash_own` gives it.
    """
    require_imported(retraining.architecture, retraining.params.get("optimizer"))
    return Job(
        label=retraining.label,
        number=number,
        architecture=retraining.architecture,
        params=retraining.params,
        seed=retraining.train_seed,
        max_epochs=retraining.max_epochs,
        epochs=retraining.epochs,
        code=code,
        own_hashes=dict(own_hashes or {}),
        pack=str(pack.resolve()),
        val_fraction=val_fraction,
        max_train_images=retraining.max_train_images,
        split_seed=retraining.split_seed,
        checkpoint=folder.get_checkpoint(retraining.label) if folder else None,
        url=folder.url if folder else None,
        cpus=granted.cpus,
        gpus=granted.gpus,
    )


def load_tested(folder: Path, retraining: Retraining) -> TestedModel | None:
    """Return the result of the same retraining in an earlier evaluation; None if it is missing or incomplete.

    A tested model stays tested without its file of weights, so that it is not trained again unasked.
    """
    path = folder / (retraining.label + RECORD)
    if not path.exists():
        return None
    try:
        record = load_record(path)
        has_weights = (folder / (retraining.label + WEIGHTS)).exists()
        check_files(folder, record, KINDS if has_weights else ["predictions"])
    except InputError:
        return None
    if record.retraining != json.loads(retraining.describe()):
        return None
    return TestedModel(**record.tested | {"confusion": tuple(tuple(row) for row in record.tested["confusion"])})


def load_tests(folder: Path, label: str) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[Mistake]]:
    """Return the labels (M,) of all test images, a model's probabilities of label 1 (M,), and its worst mistakes."""
    record = load_record(folder / (label + RECORD))
    found = load_predictions(folder, record)
    check_predictions(found, record)
    labels, logits = found["labels"], torch.from_numpy(found["logits"])
    probabilities = to_probabilities(logits, record.tested["temperature"]).numpy()
    mistakes = [
        Mistake(image=image, truth=int(labels[index]), probability=float(probabilities[index]))
        for index, image in zip(found["mistakes"], found["mistake_images"], strict=True)
    ]
    return labels, probabilities, mistakes

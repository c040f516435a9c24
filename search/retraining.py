"""One retraining, in a worker: trains a winner again, tests it once, and writes weights and record.

The only file that opens the test split.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from sklearn import metrics
from torch import nn

from search.model_file import PREPROCESSING, RECORD, ModelRecord, check_files, load_record, save_model
from search.provenance import describe_code
from search.result import TestedModel
from search.task import Failure
from search.trial import catch, prepare_device
from trainables.config import TrainConfig, build_train_config, list_values
from trainables.data import open_full_train, open_test
from trainables.models import count_parameters, restore_model
from trainables.runtime import describe_hardware
from trainables.train import predict, train


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


def retrain(retraining: Retraining, pack: str, folder: str, cpus: float, gpus: float) -> TestedModel | Failure:
    """Train one winner on train and validation together, test it once, and write weights and record."""
    return catch(lambda: _retrain(retraining, Path(pack), Path(folder), cpus, gpus))


def _retrain(retraining: Retraining, pack: Path, folder: Path, cpus: float, gpus: float) -> TestedModel:
    device = prepare_device(cpus, gpus)
    model, tested = train_and_test(retraining, pack, device)
    config = build_config(retraining)
    record = ModelRecord(
        retraining=dataclasses.asdict(retraining),
        parameters=list_values(config),
        tested=dataclasses.asdict(tested),
        preprocessing=PREPROCESSING | {"flip_average": config.flip_average},
        hardware=describe_hardware(device) | {"cpus": cpus, "gpus": gpus},
        code=describe_code(),
    )
    save_model(folder, record, model.state_dict())
    return tested


def build_config(retraining: Retraining) -> TrainConfig:
    """Return what is trained."""
    return build_train_config(
        retraining.architecture, retraining.params, epochs=retraining.max_epochs, seed=retraining.train_seed
    )


def train_and_test(retraining: Retraining, pack: Path, device: torch.device) -> tuple[nn.Module, TestedModel]:
    """Train one winner and test it; nothing is written."""
    config = build_config(retraining)
    split = open_full_train(pack, seed=retraining.split_seed, max_images=retraining.max_train_images)
    for epoch in train(config, split, None, device=device):
        if epoch.number == retraining.epochs:
            break
    model = restore_model(config.model, epoch.state()["model"])
    test = open_test(pack)
    logits = predict(model, test, device=device, flip_average=config.flip_average)
    tested = TestedModel(
        label=retraining.label,
        threshold=0.5,
        cost={},
        architecture=retraining.architecture,
        rank=retraining.rank,
        seed=retraining.seed,
        trial=retraining.trial,
        parameters=count_parameters(model),
        **score(test.labels.index_select(0, test.indices), logits),
    )
    return model, tested


def score(labels: torch.Tensor, logits: torch.Tensor) -> dict[str, Any]:
    """Score logits at threshold 0.5 with REAL as the positive class, by scikit-learn.

    Args:
        labels: (N,), 0 is FAKE and 1 is REAL.
        logits: (N,) float32.

    Returns:
        `metrics` by name and `confusion`: rows true FAKE, REAL; columns predicted FAKE, REAL.
    """
    truth, probability = labels.cpu().numpy(), torch.sigmoid(logits.double()).numpy()
    predicted = (logits > 0).numpy().astype(truth.dtype)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, predicted, pos_label=1, average="binary", zero_division=0.0
    )
    values = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "auroc": metrics.roc_auc_score(truth, probability),
        "loss": metrics.log_loss(truth, probability, labels=[0, 1]),
    }
    confusion = metrics.confusion_matrix(truth, predicted, labels=[0, 1]).tolist()
    return {
        "metrics": {name: float(value) for name, value in values.items()},
        "confusion": tuple(tuple(row) for row in confusion),
    }


def load_tested(folder: Path, retraining: Retraining) -> TestedModel | None:
    """Return what an earlier evaluation found for exactly this retraining, or None.

    Raises:
        InputError: If its files were damaged or altered since.
    """
    path = folder / (retraining.label + RECORD)
    if not path.exists():
        return None
    record = load_record(path)
    if record.retraining != json.loads(json.dumps(dataclasses.asdict(retraining))):
        return None
    check_files(folder, record)
    confusion = tuple(tuple(row) for row in record.tested["confusion"])
    return TestedModel(**{**record.tested, "confusion": confusion})

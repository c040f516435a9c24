"""One retraining, in a worker: trains a winner again, tests it once, and writes weights and record.

The only file that opens the test split.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from sklearn import metrics

from search.provenance import replace_file
from search.result import TestedModel
from search.task import Failure
from search.trial import catch, prepare_device
from trainables.config import build_train_config
from trainables.data import open_full_train, open_test
from trainables.models import build_model, count_parameters
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
    return catch(lambda: _retrain(retraining, pack, folder, prepare_device(cpus, gpus)))


def _retrain(retraining: Retraining, pack: str, folder: str, device: torch.device) -> TestedModel:
    config = build_train_config(
        retraining.architecture, retraining.params, epochs=retraining.max_epochs, seed=retraining.train_seed
    )
    split = open_full_train(Path(pack), seed=retraining.split_seed, max_images=retraining.max_train_images)
    for epoch in train(config, split, None, device=device):
        if epoch.number == retraining.epochs:
            break
    model = build_model(config.model)
    model.load_state_dict(epoch.state()["model"])
    test = open_test(Path(pack))
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
    _save(Path(folder) / retraining.label, model, retraining, tested)
    return tested


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
    """Return what an earlier evaluation found for exactly this retraining, or None."""
    path = folder / f"{retraining.label}.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["retraining"] != json.loads(json.dumps(dataclasses.asdict(retraining))):
        return None
    tested = content["tested"]
    return TestedModel(**{**tested, "confusion": tuple(tuple(row) for row in tested["confusion"])})


def _save(stem: Path, model: torch.nn.Module, retraining: Retraining, tested: TestedModel) -> None:
    """Write the weights, then the record that makes them count."""
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights, record = stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")
    partial = stem.with_name(stem.name + ".partial")
    safetensors.torch.save_file(state, partial)
    replace_file(partial, weights)
    content = {"retraining": dataclasses.asdict(retraining), "tested": dataclasses.asdict(tested)}
    partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
    replace_file(partial, record)

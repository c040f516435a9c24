"""One retraining, in a worker: trains a winner again, tests it once, and writes weights and record.

The only file that opens the test split. A retraining keeps a checkpoint per epoch beside its model's files until the
record is written, so one that is killed goes on, bit for bit, where it was.
"""

import dataclasses
import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search.cluster.shelf import Shelf
from search.cluster.store import Store
from search.evaluation.cost import measure_cost
from search.evaluation.model_file import (
    CARD,
    PREDICTIONS,
    PREPROCESSING,
    RECORD,
    WEIGHTS,
    ModelRecord,
    check_files,
    load_predictions,
    load_record,
    save_model,
)
from search.evaluation.result import Mistake, TestedModel
from search.evaluation.statistics import choose_threshold, score
from search.provenance import describe_code
from search.task import Failure
from search.trial import catch, prepare_device
from trainables.config import TrainConfig, build_train_config, list_values
from trainables.data import Split, open_full_train, open_test, open_train
from trainables.errors import InputError
from trainables.models import count_parameters, restore_model
from trainables.runtime import describe_hardware, read_peak_memory, reset_peak_memory
from trainables.train import predict, train

NUM_MISTAKES = 32
"""Test images kept per model: those it is most sure of and wrong about."""


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
    """A test image is called REAL above this probability."""


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """One epoch of a retraining, on its way to the driver."""

    epoch: int
    """From 1."""
    metrics: dict[str, float]
    is_new: bool
    """Whether it was trained just now, not found in a checkpoint."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """A retrained model with all that its test gave."""

    model: nn.Module
    summary: TestedModel
    predictions: dict[str, NDArray[Any]]
    """probabilities (M,) float32 of REAL and labels (M,) uint8 of every test image; mistakes (K,) int64, which of them
    are called wrong most confidently, and mistake_images (K, 32, 32, 3) uint8."""


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


def retrain(
    retraining: Retraining, pack: str, place: Place, cpus: float, gpus: float
) -> Iterator[Progress | TestedModel | Failure]:
    """Train one winner on train and validation together, test it once, and write weights and record.

    Yields:
        Every epoch, those of a checkpoint too, then the tested model; or why there is none.
    """
    yield from _catch(_retrain(retraining, Path(pack), place, cpus, gpus))


def calibrate(
    retraining: Retraining, pack: str, place: Place, cpus: float, gpus: float, val_fraction: float
) -> Iterator[Progress | float | Failure]:
    """Train one winner on train alone and choose the threshold that is best on validation; no test image is seen.

    Yields:
        Every epoch, then the threshold; or why there is none.
    """
    yield from _catch(_calibrate(retraining, Path(pack), place, cpus, gpus, val_fraction))


def build_config(retraining: Retraining) -> TrainConfig:
    """Return what is trained."""
    return build_train_config(
        retraining.architecture, retraining.params, epochs=retraining.max_epochs, seed=retraining.train_seed
    )


def train_and_test(retraining: Retraining, pack: Path, device: torch.device) -> tuple[nn.Module, TestedModel]:
    """Train one winner and test it; nothing is written."""
    steps = _train_and_test(retraining, pack, device, None)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value.model, end.value.summary


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
    if record.retraining != json.loads(_describe(retraining)):
        return None
    return TestedModel(**record.tested | {"confusion": tuple(tuple(row) for row in record.tested["confusion"])})


def load_tests(folder: Path, label: str) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[Mistake]]:
    """Return the labels (M,) of all test images, a model's probabilities of REAL (M,), and its worst mistakes."""
    found = load_predictions(folder, load_record(folder / (label + RECORD)))
    labels, probabilities = found["labels"], found["probabilities"]
    mistakes = [
        Mistake(image=image, truth=int(labels[index]), probability=float(probabilities[index]))
        for index, image in zip(found["mistakes"], found["mistake_images"], strict=True)
    ]
    return labels, probabilities, mistakes


def _catch(steps: Iterator[Any]) -> Iterator[Any]:
    while (message := catch(lambda: next(steps, None))) is not None:
        yield message


def _retrain(
    retraining: Retraining, pack: Path, place: Place, cpus: float, gpus: float
) -> Iterator[Progress | TestedModel]:
    device = prepare_device(cpus, gpus)
    config = build_config(retraining)
    shelf = place.build_shelf(retraining.label, _describe(retraining))
    tested = yield from _train_and_test(retraining, pack, device, shelf)
    record = ModelRecord(
        retraining=dataclasses.asdict(retraining),
        parameters=list_values(config),
        tested=dataclasses.asdict(tested.summary),
        preprocessing=PREPROCESSING | {"flip_average": config.flip_average},
        hardware=describe_hardware(device) | {"cpus": cpus, "gpus": gpus},
        code=describe_code(),
    )
    save_model(place.path, record, tested.model.state_dict(), tested.predictions)
    place.ship(retraining.label)
    shelf.delete()
    yield tested.summary


def _train_and_test(
    retraining: Retraining, pack: Path, device: torch.device, shelf: Shelf | None
) -> Generator[Progress, None, Tested]:
    """Train one winner, with a checkpoint if a shelf is given, and test it."""
    config = build_config(retraining)
    split = open_full_train(pack, seed=retraining.split_seed, max_images=retraining.max_train_images)
    reset_peak_memory(device)
    state = yield from _train(retraining, config, split, device, shelf)
    cost = {"training_seconds": sum(metrics["seconds"] for metrics in state["history"])}
    if (peak := read_peak_memory(device)) is not None:
        cost["peak_memory_bytes"] = float(peak)
    model = restore_model(config.model, state["model"])
    test = open_test(pack)
    predictions = _predict(model, test, retraining.threshold, device, config)
    cost |= measure_cost(model, device=device, flip_average=config.flip_average)
    summary = TestedModel(
        label=retraining.label,
        architecture=retraining.architecture,
        rank=retraining.rank,
        seed=retraining.seed,
        trial=retraining.trial,
        parameters=count_parameters(model),
        threshold=retraining.threshold,
        cost=cost,
        **score(predictions["labels"], predictions["probabilities"], retraining.threshold),
    )
    return Tested(model=model, summary=summary, predictions=predictions)


def _calibrate(
    retraining: Retraining, pack: Path, place: Place, cpus: float, gpus: float, val_fraction: float
) -> Iterator[Progress | float]:
    device = prepare_device(cpus, gpus)
    config = build_config(retraining)
    train_split, val_split = open_train(
        pack, val_fraction=val_fraction, seed=retraining.split_seed, max_images=retraining.max_train_images
    )
    shelf = place.build_shelf(retraining.label, _describe(retraining))
    state = yield from _train(retraining, config, train_split, device, shelf)
    model = restore_model(config.model, state["model"])
    logits = _score(model, val_split, device, config)
    labels = val_split.labels.index_select(0, val_split.indices)
    yield choose_threshold(labels.numpy(), _squash(logits))


def _train(
    retraining: Retraining, config: TrainConfig, split: Split, device: torch.device, shelf: Shelf | None
) -> Generator[Progress, None, dict[str, Any]]:
    """Train up to the retraining's last epoch and return the state there; go on from a checkpoint of the same."""
    state = shelf.load() if shelf else None
    for metrics in state["history"] if state else ():
        yield Progress(int(metrics["epoch"]), metrics, is_new=False)
    if state is None or state["epoch"] < retraining.epochs:
        for epoch in train(config, split, None, device=device, resume=state):
            state = epoch.state()
            if shelf:
                shelf.save(state)
            yield Progress(epoch.number, epoch.metrics, is_new=True)
            if epoch.number == retraining.epochs:
                break
    assert state is not None, "a retraining has at least one epoch"
    return state


def _predict(
    model: nn.Module, test: Split, threshold: float, device: torch.device, config: TrainConfig
) -> dict[str, NDArray[Any]]:
    probabilities = _squash(_score(model, test, device, config))
    labels = test.labels.index_select(0, test.indices).numpy()
    wrong = np.flatnonzero((probabilities > threshold) != (labels == 1))
    surest_first = np.argsort(-np.abs(probabilities[wrong] - labels[wrong]), kind="stable")
    mistakes = wrong[surest_first][:NUM_MISTAKES]
    images = test.images.index_select(0, test.indices[torch.from_numpy(mistakes)]).numpy()
    return {"probabilities": probabilities, "labels": labels, "mistakes": mistakes, "mistake_images": images}


def _score(model: nn.Module, split: Split, device: torch.device, config: TrainConfig) -> torch.Tensor:
    return predict(model, split, device=device, flip_average=config.flip_average, deterministic=config.deterministic)


def _squash(logits: torch.Tensor) -> NDArray[np.float32]:
    """Return probabilities of REAL, rounded once."""
    probabilities: NDArray[np.float32] = torch.sigmoid(logits.double()).float().numpy()
    return probabilities


def _describe(retraining: Retraining) -> str:
    return json.dumps(dataclasses.asdict(retraining), sort_keys=True)

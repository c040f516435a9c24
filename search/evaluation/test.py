"""What a worker does in an evaluation: trains a winner again, tests it once, and writes weights and record.

The only file that opens the test split. A retraining keeps a checkpoint per epoch beside its model's files until the
record is written, so one that is killed goes on, bit for bit, where it was.
"""

import dataclasses
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search.cluster.job import Failure
from search.cluster.worker import catch, prepare_device
from search.evaluation.cost import measure_cost
from search.evaluation.model_file import PREPROCESSING, save_model
from search.evaluation.model_record import ModelRecord, Retraining
from search.evaluation.result import TestedModel
from search.evaluation.retrainings import Place
from search.evaluation.statistics import call_real, choose_threshold, score
from search.record.checkpoints import Shelf
from search.record.provenance import describe_code
from trainables.config import TrainConfig, list_values
from trainables.metrics import to_probabilities
from trainables.models.model import count_parameters, restore_model
from trainables.runtime import describe_hardware, read_peak_memory, reset_peak_memory
from trainables.splits import Split, open_full_train, open_test, open_train
from trainables.train import predict, train

NUM_MISTAKES = 32
"""Test images kept per model: those it is most sure of and wrong about."""


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
    """logits (M,) float32 and labels (M,) uint8 of every test image; mistakes (K,) int64, which of them
    are called wrong most confidently, and mistake_images (K, 32, 32, 3) uint8."""


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


def train_and_test(retraining: Retraining, pack: Path, device: torch.device) -> tuple[nn.Module, TestedModel]:
    """Train one winner and test it; nothing is written."""
    steps = _train_and_test(retraining, pack, device, None)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value.model, end.value.summary


def _catch(steps: Iterator[Any]) -> Iterator[Any]:
    while (message := catch(lambda: next(steps, None))) is not None:
        yield message


def _retrain(
    retraining: Retraining, pack: Path, place: Place, cpus: float, gpus: float
) -> Iterator[Progress | TestedModel]:
    device = prepare_device(cpus, gpus)
    config = retraining.build_config()
    shelf = place.build_shelf(retraining.label, retraining.describe())
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
    config = retraining.build_config()
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
        **score(predictions["labels"], predictions["logits"], retraining.threshold),
    )
    return Tested(model=model, summary=summary, predictions=predictions)


def _calibrate(
    retraining: Retraining, pack: Path, place: Place, cpus: float, gpus: float, val_fraction: float
) -> Iterator[Progress | float]:
    device = prepare_device(cpus, gpus)
    config = retraining.build_config()
    train_split, val_split = open_train(
        pack, val_fraction=val_fraction, seed=retraining.split_seed, max_images=retraining.max_train_images
    )
    shelf = place.build_shelf(retraining.label, retraining.describe())
    state = yield from _train(retraining, config, train_split, device, shelf)
    model = restore_model(config.model, state["model"])
    logits = _score(model, val_split, device, config)
    labels = val_split.labels.index_select(0, val_split.indices)
    yield choose_threshold(labels.numpy(), to_probabilities(logits).numpy())


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
    logits = _score(model, test, device, config)
    probabilities = to_probabilities(logits).numpy()
    labels = test.labels.index_select(0, test.indices).numpy()
    wrong = np.flatnonzero(call_real(probabilities, threshold) != (labels == 1))
    surest_first = np.argsort(-np.abs(probabilities[wrong] - labels[wrong]), kind="stable")
    mistakes = wrong[surest_first][:NUM_MISTAKES]
    images = test.images.index_select(0, test.indices[torch.from_numpy(mistakes)]).numpy()
    return {"logits": logits.numpy(), "labels": labels, "mistakes": mistakes, "mistake_images": images}


def _score(model: nn.Module, split: Split, device: torch.device, config: TrainConfig) -> torch.Tensor:
    return predict(model, split, device=device, flip_average=config.flip_average, deterministic=config.deterministic)

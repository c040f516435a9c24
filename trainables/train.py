"""The training loop: a generator of epochs. The caller asks for an epoch, and stops by not asking again."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainables.augment import to_float
from trainables.average import Average
from trainables.config import TrainConfig
from trainables.errors import InputError, TrainingError
from trainables.metrics import score
from trainables.models.model import build_model
from trainables.optim import build_optimizer, schedule
from trainables.runtime import (
    autocast,
    build_generator,
    choose_precision,
    describe_hardware,
    deterministic_block,
    seed_block,
)
from trainables.seed import derive_seed
from trainables.splits import Split
from trainables.step import STEPS, Step

EVAL_BATCH_SIZES = {"cpu": 128, "cuda": 256}
"""Type of device -> images in a forward pass without gradients. On a CPU 32 to 512 images are equally fast if memory is
kept, and 128 need less memory; without `keep_memory`, page faults make 512 images 2.4 times as slow for the paper's CNN
(LOG.md, 2026-11-29). On CUDA the largest model, ResNet-50 with the 3x3 stem at 128 pixels, holds about 4 maps of 256 x
128 x 128 for each image: 9 GB in bfloat16."""

EVAL_PRECISIONS = {"cpu": "float32", "cuda": "bfloat16"}
"""Type of device -> precision of predictions, so that a model's threshold, test and export agree. In records without a
precision, training had the same one. Validation after an epoch has that of training, since it only ranks trials."""

NUM_FITTED = 1000
"""Number of training images from which a network may compute its fixed weights."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """A finished epoch."""

    number: int
    """From 1."""
    metrics: dict[str, float]
    """Metrics of training and of its speed, and of the validation split if there is one."""
    remark: str = ""
    """Text that a record adds to the device's name: why steps run without a CUDA graph on a device that has them."""
    state: Callable[[], dict[str, Any]]
    """Returns a copy of the state to resume from; valid until the next epoch is asked for.

    `model` has the weights for predictions. With `ema_decay` they are the average, and `last` has the trained weights.
    `precision` is that of the training, which it keeps if it continues on another machine. `hardware` has what
    `describe_hardware` says of each machine so far, once.
    """


def train(
    config: TrainConfig,
    train_split: Split,
    val_split: Split | None,
    *,
    device: torch.device,
    resume: dict[str, Any] | None = None,
) -> Iterator[Epoch]:
    """Train a model, one epoch each time the caller asks.

    Args:
        config: The training.
        train_split: Training images.
        val_split: Images to validate on after each epoch, or None.
        device: Device to train on.
        resume: A state of `Epoch.state`. Training continues with the next epoch, with the same bits as without a stop.

    Raises:
        InputError: If the training split is empty, or the initial weights cannot be loaded.
        TrainingError: If the loss is NaN or infinite.
    """
    if not len(train_split):
        raise InputError("the training split holds 0 images: give it at least 1")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = {} if resume is None else {"precision": EVAL_PRECISIONS[device.type], **resume}
    precision = before.get("precision", choose_precision(config.precision, device))
    config = dataclasses.replace(config, precision=precision)
    training = _Training(config, train_split, device, resume)
    train_split = train_split.to(device)
    step = STEPS[device.type](config, training.model, training.optimizer, train_split)
    val_split = None if val_split is None else val_split.to(device)
    for number in range(len(training.history) + 1, config.epochs + 1):
        started = time.perf_counter()
        with deterministic_block(config.deterministic):
            metrics = {"epoch": number, **_train_epoch(training, step, train_split, number)}
            if val_split is not None:
                metrics |= _validate(training.scored, val_split, number, config)
        if device.type == "cuda":
            metrics["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
        metrics["seconds"] = time.perf_counter() - started
        training.history.append(metrics)
        yield Epoch(number=number, metrics=dict(metrics), remark=step.remark, state=training.copy_state)


class _Training:
    """The state of a training that a checkpoint saves."""

    def __init__(self, config: TrainConfig, split: Split, device: torch.device, resume: dict[str, Any] | None) -> None:
        self.config = config
        self.model = build_model(config.model, seed=derive_seed(config.seed, "weights"), size=config.size)
        if resume is None and (fit := getattr(config.model, "fit", None)):
            chosen = split.indices[:: math.ceil(len(split) / NUM_FITTED)]  # of all classes, which follow each other
            images = to_float(split.images.index_select(0, chosen))
            with seed_block(derive_seed(config.seed, "fit"), torch.device("cpu")):
                fit(self.model, images)
        self.model.to(device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(config, self.model)
        self.average = Average(self.model, decay=config.ema_decay) if config.ema_decay else None
        self.scored = self.model if self.average is None else self.average.model
        """The model to validate and to predict with."""
        self.history: list[dict[str, float]] = []
        """Metrics of each epoch."""
        self.hardware = [describe_hardware(device)]
        """Each different hardware that trained, this process last."""
        if resume is not None:
            self.model.load_state_dict(resume["model" if self.average is None else "last"])
            self.scored.load_state_dict(resume["model"])
            self.optimizer.load_state_dict(resume["optimizer"])
            self.history += resume["history"]
            self.hardware[:0] = [each for each in resume.get("hardware", ()) if each not in self.hardware]

    def copy_state(self) -> dict[str, Any]:
        live = {"model": self.scored.state_dict(), "optimizer": self.optimizer.state_dict(), "history": self.history}
        last = {} if self.average is None else {"last": self.model.state_dict()}
        known = {"epoch": len(self.history), "precision": self.config.precision, "hardware": self.hardware}
        return copy.deepcopy({**live, **last, **known})


def predict(
    model: nn.Module,
    split: Split,
    *,
    device: torch.device,
    flip_average: bool = False,
    deterministic: bool = False,
) -> Tensor:
    """Compute the logits of a split's images, in the split's order.

    Args:
        model: Moved to the device and set to evaluation mode.
        split: Images to score.
        device: Device to compute on.
        flip_average: Return the mean of the logits of each image and its mirror image, at twice the cost.
        deterministic: Whether CUDA uses only algorithms that are reproducible to the bit.

    Returns:
        Logits (M,) float32 on the CPU.
    """
    model.to(device).to(memory_format=torch.channels_last)
    with deterministic_block(deterministic):
        return _score(model, split.to(device), flip_average=flip_average)


def score_batch(model: nn.Module, images: Tensor, *, flip_average: bool, precision: str | None = None) -> Tensor:
    """Compute the logits (N,) float32 of images uint8 (N, size, size, 3) on the model's device.

    Args:
        model: In evaluation mode.
        images: One batch.
        flip_average: Return the mean of the logits of each image and its mirror image, at twice the cost.
        precision: As in TrainConfig; None is that of predictions.
    """
    with torch.inference_mode(), autocast(images.device, precision or EVAL_PRECISIONS[images.device.type]):
        pixels = to_float(images)
        views = (pixels, pixels.flip(3)) if flip_average else (pixels,)
        return torch.stack([model(view).float() for view in views]).mean(0)


def _train_epoch(training: _Training, step: Step, split: Split, number: int) -> dict[str, float]:
    """Train one epoch in whole batches; the code waits for the device only at the end."""
    config, average, device = training.config, training.average, split.images.device
    num_steps = len(split) // step.batch_size
    shuffling = build_generator(device, derive_seed(config.seed, "shuffling", number))
    order = split.indices[torch.randperm(len(split), generator=shuffling, device=device)]
    rate = 0.0
    started = time.perf_counter()
    with step.epoch(number):
        for index, batch in enumerate(torch.split(order, step.batch_size)[:num_steps]):
            rate = schedule(
                training.optimizer, config, progress=(number - 1 + (index + 0.5) / num_steps) / config.epochs
            )
            step.run(batch)
            if average is not None:
                average.update((number - 1) * num_steps + index)
    num_images = num_steps * step.batch_size
    return {
        "train_loss": _require_finite(step.loss_sum.item() / num_steps, "loss", number),
        "train_accuracy": step.num_correct.item() / num_images,
        "learning_rate": rate,
        "images_per_second": num_images / (time.perf_counter() - started),
    }


def _validate(model: nn.Module, split: Split, number: int, config: TrainConfig) -> dict[str, float]:
    logits = _score(model, split, flip_average=config.flip_average, precision=config.precision)
    metrics = score(logits, split.labels.index_select(0, split.indices).cpu())
    _require_finite(metrics["loss"], "validation loss", number)
    return metrics


def _score(model: nn.Module, split: Split, *, flip_average: bool, precision: str | None = None) -> Tensor:
    """Compute the logits (M,) of a split without moving the model, whose addresses a recorded step uses."""
    model.eval()
    batches = torch.split(split.indices, EVAL_BATCH_SIZES[split.images.device.type])
    logits = [
        score_batch(model, split.images.index_select(0, batch), flip_average=flip_average, precision=precision)
        for batch in batches
    ]
    return torch.cat(logits).cpu()


def _require_finite(loss: float, name: str, number: int) -> float:
    if not math.isfinite(loss):
        raise TrainingError(f"{name} is {loss} in epoch {number}")
    return loss

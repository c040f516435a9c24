"""The loops that benchmarks/training.py compares: generators that yield the number of images of each epoch.

Each loop runs in a process of its own, because the setting that keeps memory applies to a whole process.
"""

import dataclasses
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

import trainables.train
from benchmarks.roofline import wait
from trainables.augment import to_float
from trainables.config import IMAGE_SIZE, Architecture, TrainConfig
from trainables.models.model import build_model
from trainables.optim import build_optimizer
from trainables.runtime import autocast, keep_memory
from trainables.splits import Split, open_full_train

KINDS = {"cpu": ("before", "kept", "loop", "bare", "usual"), "cuda": ("loop", "bare", "usual")}
"""Type of device -> loops that are compared on it."""
KEEPING = ("kept", "loop", "bare")
"""Loops whose process keeps its memory."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the processes of one comparison share."""

    config: TrainConfig
    packed: Path
    folder: Path
    """The same images as files."""
    num_images: int
    device: torch.device
    threads: int
    cudnn_benchmark: bool
    compiles: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """The measurements of one epoch."""

    images_per_second: float
    cpu_us_per_image: float
    """Microseconds of processor time, including the loader's processes."""
    faults_per_step: float
    """Page faults of the training process."""


class Loop:
    """A loop in its own process, which trains one epoch for each request."""

    def __init__(self, kind: str, plan: Plan) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(kind, plan, far))  # a daemon may start no loader
        self._process.start()
        far.close()
        self.workers: int = self._pipe.recv()
        """Of the loader."""

    def measure(self) -> Turn:
        """Train the next epoch."""
        self._pipe.send(None)
        turn: Turn = self._pipe.recv()
        return turn

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(kind: str, plan: Plan, pipe: Connection) -> None:
    """Train one epoch to warm up, then train and measure one epoch for each message, until the other side closes."""
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(plan.threads)
    torch.backends.cudnn.benchmark = plan.cudnn_benchmark
    if kind in KEEPING:
        keep_memory()
    if plan.compiles:
        compile_models()
    workers, epochs = _build(kind, plan)
    next(epochs)
    pipe.send(workers)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(_measure(epochs, plan.config.batch_size))


def _build(kind: str, plan: Plan) -> tuple[int, Iterator[int]]:
    """Return the number of the loader's workers, and the epochs of a loop."""
    config, device = plan.config, plan.device
    if kind == "usual":
        return choose_workers(config, plan.folder, plan.num_images, device)
    split = open_full_train(plan.packed, seed=0, max_images=plan.num_images)
    if kind == "bare":
        return 0, run_bare(config, split, device)
    if kind != "loop":
        config = dataclasses.replace(config, precision="float32")
    return 0, run_loop(config, split, device)


def _measure(epochs: Iterator[int], batch_size: int) -> Turn:
    started, worked, faults = time.perf_counter(), _read_cpu_seconds(), _count_faults()
    num = next(epochs)
    seconds, worked = time.perf_counter() - started, _read_cpu_seconds() - worked
    return Turn(num / seconds, 1e6 * worked / num, (_count_faults() - faults) * batch_size / num)


def _count_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _read_cpu_seconds() -> float:
    """Return the processor time of this process and of its living children, as Linux reports it."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def run_loop(config: TrainConfig, split: Split, device: torch.device) -> Iterator[int]:
    """Train by trainables.train."""
    for _ in trainables.train.train(config, split, None, device=device):
        yield len(split) // config.batch_size * config.batch_size


def run_bare(config: TrainConfig, split: Split, device: torch.device) -> Iterator[int]:
    """Train with as little code as possible, on floats that are already on the device, in whole batches."""
    images = to_float(split.images[split.indices]).to(device).permute(0, 2, 3, 1).contiguous()
    labels = split.labels[split.indices].float().to(device)
    model = build_model(config.model).to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config, model)
    num_steps = len(labels) // config.batch_size
    while True:
        order = torch.randperm(len(labels), device=device)
        for batch in order.split(config.batch_size)[:num_steps]:
            with autocast(device, config.precision):
                logits = model(images.index_select(0, batch).permute(0, 3, 1, 2))
            loss = functional.binary_cross_entropy_with_logits(logits, labels.index_select(0, batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait(device)
        yield num_steps * config.batch_size


def run_usual(config: TrainConfig, folder: Path, num: int, device: torch.device, workers: int) -> Iterator[int]:
    """Train as tutorials do, from image files."""
    transform = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    images = datasets.ImageFolder(str(folder / "train"), transform)
    loader = DataLoader(
        Subset(images, range(0, len(images), len(images) // num)[:num]),
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    model = build_model(config.model).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    criterion = nn.BCEWithLogitsLoss()
    while True:
        total = 0.0
        for batch, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(batch.to(device)), labels.float().to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
        yield len(loader) * config.batch_size


def measure_speed(epochs: Iterator[int]) -> float:
    """Return the images per second of the next epoch."""
    started = time.perf_counter()
    num_images = next(epochs)
    return num_images / (time.perf_counter() - started)


def choose_workers(config: TrainConfig, folder: Path, num: int, device: torch.device) -> tuple[int, Iterator[int]]:
    """Return the number of workers at which the usual recipe is fastest, and that recipe, warm."""
    cores = len(os.sched_getaffinity(0))
    speeds: dict[int, float] = {}
    best: tuple[int, Iterator[int]] | None = None
    for workers in [0, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)]:
        epochs = run_usual(config, folder, num, device, workers)
        next(epochs)
        speeds[workers] = measure_speed(epochs)
        if best is None or speeds[workers] > speeds[best[0]]:
            best = workers, epochs
    assert best is not None
    return best


def compile_models() -> None:
    """Make trainables.train compile every model from now on; this is only measured, no study does it."""

    def build(config: Architecture, *, seed: int = 0, size: int = IMAGE_SIZE) -> nn.Module:
        model = build_model(config, seed=seed, size=size)
        model.compile()
        return model

    trainables.train.build_model = build

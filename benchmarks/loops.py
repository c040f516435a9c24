"""The loops that benchmarks/training.py compares: generators of epochs, a value an epoch's number of images."""

import os
import time
from collections.abc import Iterator
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
from trainables.runtime import autocast
from trainables.splits import Split


def run_loop(config: TrainConfig, split: Split, device: torch.device) -> Iterator[int]:
    """Train by trainables.train."""
    for _ in trainables.train.train(config, split, None, device=device):
        yield len(split) // config.batch_size * config.batch_size


def run_bare(config: TrainConfig, split: Split, device: torch.device) -> Iterator[int]:
    """Train by the least code that does the same, on floats that lie on the device, in whole batches."""
    images = to_float(split.images[split.indices]).to(device).permute(0, 2, 3, 1).contiguous()
    labels = split.labels[split.indices].float().to(device)
    model = build_model(config.model).to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config, model)
    num_steps = len(labels) // config.batch_size
    while True:
        order = torch.randperm(len(labels), device=device)
        for batch in order.split(config.batch_size)[:num_steps]:
            with autocast(device):
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
    """Let trainables.train compile every model from now on: a lever to measure, not one that ships."""

    def build(config: Architecture, *, seed: int = 0, size: int = IMAGE_SIZE) -> nn.Module:
        model = build_model(config, seed=seed, size=size)
        model.compile()
        return model

    trainables.train.build_model = build

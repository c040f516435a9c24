"""Measures the training loop against its floor and against the usual recipe, interleaved in one run.

loop   trainables.train on a packed data set
bare   a hand-written loop over float tensors in memory: same model, batch and optimizer
usual  ImageFolder + Resize + ToTensor + DataLoader with its best number of workers, and a plain loop
floor  what the step's operations take at the device's measured rates (benchmarks/roofline.py)

Run `python -m benchmarks.training [--data PATH] [--json PATH] [--short]`; without --data, on made-up JPEGs. On CUDA it
also times 20 epochs of 100,000 images. Needs torch, torchvision and numpy only.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from torchvision.io import write_jpeg

from benchmarks.roofline import Roof, count_work, measure_roof, wait
from trainables.augment import to_float
from trainables.config import CnnConfig, ModelConfig, ResNet50Config, TrainConfig
from trainables.data import Split, open_full_train
from trainables.models import build_model, count_parameters
from trainables.optim import build_optimizer
from trainables.pack import pack
from trainables.runtime import autocast, describe_device, pick_device
from trainables.source import open_source
from trainables.train import train

SMALL_CNN = CnnConfig(
    num_blocks=3, convs_per_block=2, filters=32, growth=2.0, batch_norm=True, head="gap", dense_layers=0
)
MODELS: dict[str, ModelConfig] = {
    "paper_cnn": CnnConfig(),
    "small_cnn": SMALL_CNN,
    "resnet50": ResNet50Config(),
    "resnet50_cifar": ResNet50Config(stem="cifar"),
}
SIZES = {
    "cpu": {"paper_cnn": 8192, "small_cnn": 1024, "resnet50": 384},
    "cuda": dict.fromkeys(MODELS, 20_480),
    "short": {"paper_cnn": 512, "small_cnn": 128, "resnet50": 64},
}
"""Images in an epoch; ResNet-50 with the 3x3 stem is out of reach of a CPU."""
FULL_EPOCHS = {"paper_cnn": (128, 1024), "resnet50_cifar": (128, 1024)}
"""Batch sizes at which 20 epochs are timed on CUDA."""


def run_loop(config: TrainConfig, split: Split, device: torch.device) -> Iterator[int]:
    """Train by trainables.train; each value is an epoch's number of images."""
    for _ in train(config, split, None, device=device):
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


def compare(
    name: str, folder: Path, packed: Path, num: int, rounds: int, device: torch.device, roof: Roof
) -> dict[str, Any]:
    """Measure the three loops on one model, a round at a time, and count their floor."""
    split = open_full_train(packed, seed=0, max_images=num)
    config = TrainConfig(model=MODELS[name], epochs=10**6, batch_size=min(128, len(split) // 2))
    workers, usual = choose_workers(config, folder, len(split), device)
    loops = {"loop": run_loop(config, split, device), "bare": run_bare(config, split, device), "usual": usual}
    for epochs in loops.values():
        next(epochs)
    speeds: dict[str, list[float]] = {kind: [] for kind in loops}
    kinds = list(loops)
    for turn in range(rounds):
        # Each loop comes first, second and last in turn, so that none always follows the same one.
        for kind in kinds[turn % 3 :] + kinds[: turn % 3]:
            speeds[kind].append(measure_speed(loops[kind]))
    work = count_work(config, device)
    return {
        "parameters": count_parameters(build_model(config.model)),
        "images": len(split),
        "batch_size": config.batch_size,
        **{f"{kind}_images_per_second": statistics.median(found) for kind, found in speeds.items()},
        "usual_workers": workers,
        **{f"loop_to_{kind}": _median_ratio(speeds["loop"], speeds[kind]) for kind in ("bare", "usual")},
        **dataclasses.asdict(work),
        "floor_images_per_second": 1 / roof.floor_seconds(work),
    }


def time_epochs(name: str, batch_size: int, device: torch.device) -> float:
    """Return the seconds that 20 epochs of 100,000 images take, from raw images in memory to trained weights."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (100_000, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(len(images)).remainder(2).to(torch.uint8)
    split = Split(images=images, labels=labels, indices=torch.arange(len(images)))
    few = dataclasses.replace(split, indices=split.indices[: 4 * batch_size]).to(device)
    config = TrainConfig(model=MODELS[name], epochs=20, batch_size=batch_size)
    next(train(config, few, None, device=device))
    started = time.perf_counter()
    for _ in train(config, split, None, device=device):
        pass
    return time.perf_counter() - started


def prepare(folder: Path, data: Path | None, num: int) -> Path:
    """Write so many training images, and a few for test, in the published layout."""
    generator = torch.Generator().manual_seed(0)
    for part, count in {"train/FAKE": num // 2, "train/REAL": num // 2, "test/FAKE": 2, "test/REAL": 2}.items():
        (folder / part).mkdir(parents=True)
        if data is None:
            _draw_images(folder / part, count, generator)
            continue
        with open_source(data) as source:
            names = sorted(member.name for member in source.list_members() if member.name.startswith(f"{part}/"))
            for name in names[:count]:
                (folder / part / Path(name).name).write_bytes(source.read(name))
    return folder


def _draw_images(folder: Path, count: int, generator: torch.Generator) -> None:
    """Write JPEGs as smooth, and so as quick to decode, as photographs."""
    for number in range(count):
        coarse = torch.randint(256, (1, 3, 8, 8), generator=generator).float()
        image = functional.interpolate(coarse, size=32, mode="bilinear")[0]
        write_jpeg(image.to(torch.uint8), str(folder / f"{number}.jpg"))


def _median_ratio(ones: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def _print_table(models: dict[str, dict[str, Any]]) -> None:
    print(f"{'images/s':15}{'loop':>9}{'bare':>9}{'usual':>9}{'workers':>8}{'floor':>9}", end="")
    print(f"{'loop/bare':>11}{'loop/usual':>11}{'MMAC/image':>12}{'MB/image':>10}")
    for name, row in models.items():
        speeds = [row[f"{kind}_images_per_second"] for kind in ("loop", "bare", "usual", "floor")]
        print(f"{name:15}{speeds[0]:9,.0f}{speeds[1]:9,.0f}{speeds[2]:9,.0f}{row['usual_workers']:8}", end="")
        print(f"{speeds[3]:9,.0f}{row['loop_to_bare']:11.3f}{row['loop_to_usual']:11.2f}", end="")
        print(f"{row['macs_per_image'] / 1e6:12.1f}{row['bytes_per_image'] / 1e6:10.2f}")


def main() -> None:
    """Measure, print and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or zip in CIFAKE's layout; default: made-up images")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--short", action="store_true", help="few images: does it run?")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="default: all that the device can")
    parser.add_argument("--rounds", type=int, help="timed epochs of each loop; default: 5, in a short run 1")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    device = pick_device()
    roof = measure_roof(device)
    figures: dict[str, Any] = {
        "device": describe_device(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **dataclasses.asdict(roof),
    }
    print(f"{figures['device']}, torch {torch.__version__}, {figures['threads']} threads: ", end="")
    print(f"{roof.macs_per_second / 1e9:,.0f} GMAC/s, {roof.bytes_per_second / 1e9:,.0f} GB/s")
    sizes = SIZES["short" if arguments.short else device.type]
    chosen = {name: num for name, num in sizes.items() if name in (arguments.models or sizes)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare(Path(scratch) / "images", arguments.data, max(chosen.values()))
        packed = pack(folder, Path(scratch) / "cache")
        rounds = arguments.rounds or (1 if arguments.short else 5)
        figures["models"] = {
            name: compare(name, folder, packed, num, rounds, device, roof) for name, num in chosen.items()
        }
    _print_table(figures["models"])
    if device.type == "cuda" and not arguments.short:
        figures["twenty_epochs_seconds"] = {}
        for name in [name for name in FULL_EPOCHS if name in chosen]:
            found = {str(size): time_epochs(name, size, device) for size in FULL_EPOCHS[name]}
            figures["twenty_epochs_seconds"][name] = found
            print(f"{name}: 20 epochs of 100,000 images", *(f"{s:.1f} s at batch {size}" for size, s in found.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

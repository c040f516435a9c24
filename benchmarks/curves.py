"""Trains random configurations once and keeps their learning curves, for `benchmarks.replay` to search in.

    python -m benchmarks.curves --data CIFAKE.zip [--kind cifake|grown] [--num 240] [--processes 2]

Of two kinds: `cifake` is configs/cifake.yaml's space of CNNs as far as two cores reach; `grown` has what came later,
Muon, whitening, pooling first, averaged weights. The images are few, the CNNs narrow, and no regulariser needs more
than nine epochs to pay. Configuration n is what the random sampler proposes
for trial n, so a table can be continued: a row is written when its training is done, and what the table holds is not
trained again.
"""

import argparse
import csv
import dataclasses
import functools
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.source import build_sampler, list_distributions
from search.config.load import parse
from search.config.schema import StudyConfig
from search.record.metric import ACCURACY
from trainables.config import build_train_config
from trainables.errors import TrainingError
from trainables.pack import pack
from trainables.runtime import keep_memory, limit_threads
from trainables.splits import Split, open_train
from trainables.train import train

FOLDER = Path(__file__).parent
EPOCHS = 9
REPEAT_EVERY = 10
"""Of so many configurations the last is trained with a second seed: what a seed is worth."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One space, whose configurations were trained on the same images."""

    architecture: str
    table: Path
    """Where the curves are."""
    num_train: int
    num_val: int
    space: dict[str, Any] = dataclasses.field(hash=False)
    """Section `space` of a study; every combination can be built (checked by `build_study`)."""

    @property
    def max_epochs(self) -> int:
        """Epochs of a training."""
        return EPOCHS

    def build_study(self, **search: Any) -> StudyConfig:
        """Return the study that the curves belong to, with its search changed."""
        known = {"architectures": [self.architecture], "max_epochs": EPOCHS}
        return parse({"name": "curves", "search": known | search, "space": self.space})


SHARED = {
    "learning_rate": {"low": 3e-4, "high": 3e-2, "log": True},
    "batch_size": {"choice": [32, 64, 128]},
    "warmup_frac": {"choice": [0.0, 0.1, 0.3]},
    "flip": {"choice": [False, True]},
    "crop_padding": {"choice": [0, 2, 4]},
}
"""What all kinds search alike."""
KINDS = {
    "cifake": Kind(
        architecture="cnn",
        table=FOLDER / "curves.csv",
        num_train=1200,
        num_val=800,
        space={
            "shared": SHARED
            | {
                "weight_decay": {"choice": [0.0, 1e-5, 1e-4, 1e-3, 1e-2]},
                "optimizer": {"choice": ["adam", "adamw", "sgd"]},
                "schedule": {"choice": ["constant", "cosine", "one_cycle"]},
            },
            "cnn": {
                "num_blocks": {"low": 2, "high": 4},
                "convs_per_block": {"low": 1, "high": 2},
                "filters": {"choice": [8, 16, 32]},
                "growth": {"choice": [1.0, 1.5]},
                "batch_norm": {"choice": [False, True]},
                "head": {"choice": ["flatten", "gap"]},
                "dense_layers": {"low": 0, "high": 2},
                "dense_units": {"choice": [64, 128, 256]},
                "dropout": {"low": 0.0, "high": 0.5},
            },
        },
    ),
    "grown": Kind(
        architecture="cnn",
        table=FOLDER / "curves_grown.csv",
        num_train=1200,
        num_val=800,
        space={
            "shared": SHARED
            | {
                "weight_decay": {"choice": [0.0, 1e-3, 1e-2, 1e-1]},
                "optimizer": {"choice": ["adamw", "muon"]},
                "muon_learning_rate": {"low": 5e-3, "high": 1e-1, "log": True, "when": {"optimizer": ["muon"]}},
                "schedule": {"choice": ["cosine", "one_cycle"]},
                "flip_average": {"choice": [False, True]},
                "cutout": {"choice": [0, 8]},
                "label_smoothing": {"choice": [0.0, 0.1]},
                "ema_decay": {"choice": [0.0, 0.9, 0.99]},
            },
            "cnn": {
                "num_blocks": {"low": 2, "high": 4},
                "convs_per_block": {"low": 1, "high": 2},
                "filters": {"choice": [16, 24]},
                "growth": {"choice": [1.0, 1.5]},
                "whiten": {"choice": [False, True]},
                "pool": {"choice": ["last", "first"]},
                "batch_norm": True,
                "head": {"choice": ["flatten", "gap"]},
                "dense_layers": {"low": 0, "high": 1},
                "dense_units": 64,
                "dropout": {"low": 0.0, "high": 0.3},
            },
        },
    ),
}


@functools.cache
def propose(kind: Kind, number: int) -> dict[str, Any]:
    """Return the searched parameters of one configuration."""
    return build_sampler(kind, "random", seed=0).propose(number)


def list_jobs(num: int) -> list[tuple[int, int]]:
    """Return (configuration, seed) of every training in a table of `num` configurations, in order."""
    return [(number, seed) for number in range(num) for seed in range(1 + (number % REPEAT_EVERY == REPEAT_EVERY - 1))]


def learn(job: tuple[int, int]) -> dict[str, Any]:
    """Train one configuration with one seed; the epochs after a loss that is not finite stay empty."""
    number, seed = job
    kind, splits = _opened[0]
    params = propose(kind, number)
    config = build_train_config(kind.architecture, params, epochs=EPOCHS, seed=seed)
    curve, seconds = [], []
    started = time.process_time()
    try:
        for epoch in train(config, *splits, device=torch.device("cpu")):
            curve.append(epoch.metrics[ACCURACY])
            seconds.append(time.process_time() - started)
            started = time.process_time()
    except TrainingError:
        curve += [None] * (EPOCHS - len(curve))
    accuracies = {f"epoch_{epoch}": value for epoch, value in enumerate(curve, start=1)}
    cost = round(statistics.median(seconds), 3) if seconds else None
    searched = {name: params.get(name) for name in list_distributions(kind)}
    return {"number": number, "seed": seed, **searched, "seconds": cost, **accuracies}


def load_jobs(table: Path) -> set[tuple[int, int]]:
    """Return (configuration, seed) of the trainings that a table holds."""
    if not table.exists():
        return set()
    with table.open(newline="") as file:
        return {(int(row["number"]), int(row["seed"])) for row in csv.DictReader(file)}


def write(table: Path, row: dict[str, Any]) -> None:
    """Append a row, behind the names of the columns if it is the first."""
    is_new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Train the missing configurations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kind", default="cifake", choices=KINDS)
    parser.add_argument("--num", type=int, default=240)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    kind = KINDS[options.kind]
    packed = pack(options.data, Path("~/.cache/cifake-search").expanduser())
    known = load_jobs(kind.table)
    missing = [job for job in list_jobs(options.num) if job not in known]
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, initializer=_open, initargs=(kind, packed)) as pool:
        for row in pool.imap_unordered(learn, missing):
            write(kind.table, row)
            print(row["number"], row["seed"], row["seconds"], row[f"epoch_{EPOCHS}"], flush=True)


_opened: list[tuple[Kind, tuple[Split, Split]]] = []


def _open(kind: Kind, packed: Path) -> None:
    """Open the data in a worker process, which yields to other processes."""
    os.nice(10)
    limit_threads(1)
    keep_memory()
    images = kind.num_train + kind.num_val
    splits = open_train(packed, val_fraction=kind.num_val / images, seed=0, max_images=images)
    _opened[:] = [(kind, splits)]


if __name__ == "__main__":
    main()

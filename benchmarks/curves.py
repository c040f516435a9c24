"""Trains random CNN configurations once and keeps their learning curves, for `benchmarks.replay` to search in.

    python -m benchmarks.curves --data CIFAKE.zip [--num 240] [--processes 2]

The space is configs/cifake.yaml's as far as two cores reach: narrower networks, smaller batches, no regulariser that
needs more than nine epochs to pay. Configuration n is what the random sampler proposes for trial n, so the table can
be continued: a row is written when its training is done, and what the table holds is not trained again.
"""

import argparse
import csv
import functools
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from search.config.load import parse
from search.config.schema import StudyConfig
from search.config.space import build_distributions, list_specs
from search.record.metric import ACCURACY
from search.samplers.sampler import Sampler
from trainables.config import build_train_config
from trainables.errors import TrainingError
from trainables.pack import pack
from trainables.runtime import keep_memory, limit_threads
from trainables.splits import Split, open_train
from trainables.train import train

TABLE = Path(__file__).parent / "curves.csv"
ARCHITECTURE = "cnn"
EPOCHS = 9
REPEAT_EVERY = 10
"""Of so many configurations the last is trained with a second seed: what a seed is worth."""
NUM_TRAIN, NUM_VAL = 1200, 800
SPACE: dict[str, Any] = {
    "shared": {
        "learning_rate": {"low": 3e-4, "high": 3e-2, "log": True},
        "weight_decay": {"choice": [0.0, 1e-5, 1e-4, 1e-3, 1e-2]},
        "batch_size": {"choice": [32, 64, 128]},
        "optimizer": {"choice": ["adam", "adamw", "sgd"]},
        "schedule": {"choice": ["constant", "cosine", "one_cycle"]},
        "warmup_frac": {"choice": [0.0, 0.1, 0.3]},
        "flip": {"choice": [False, True]},
        "crop_padding": {"choice": [0, 2, 4]},
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
}
"""What is searched; every combination can be built (checked by `build_study`)."""
STUDY = {
    "name": "curves",
    "search": {"architectures": [ARCHITECTURE], "max_epochs": EPOCHS},
    "space": SPACE,
}


def build_study(**search: Any) -> StudyConfig:
    """Return the study that the curves belong to, with its search changed."""
    return parse(STUDY | {"search": STUDY["search"] | search})


@functools.cache
def propose(number: int) -> dict[str, Any]:
    """Return the searched parameters of one configuration."""
    distributions = build_distributions(list_specs(build_study().space, ARCHITECTURE), ARCHITECTURE)
    return Sampler("random", distributions, seed=0, startup=1).propose(number)


def list_jobs(num: int) -> list[tuple[int, int]]:
    """Return (configuration, seed) of every training that the table of so many configurations holds, in order."""
    return [(number, seed) for number in range(num) for seed in range(1 + (number % REPEAT_EVERY == REPEAT_EVERY - 1))]


def learn(job: tuple[int, int]) -> dict[str, Any]:
    """Train one configuration with one seed; the epochs after a loss that is not finite stay empty."""
    number, seed = job
    params = propose(number)
    config = build_train_config(ARCHITECTURE, params, epochs=EPOCHS, seed=seed)
    curve, seconds = [], []
    started = time.process_time()
    try:
        for epoch in train(config, *_splits(), device=torch.device("cpu")):
            curve.append(epoch.metrics[ACCURACY])
            seconds.append(time.process_time() - started)
            started = time.process_time()
    except TrainingError:
        curve += [None] * (EPOCHS - len(curve))
    accuracies = {f"epoch_{epoch}": value for epoch, value in enumerate(curve, start=1)}
    cost = round(statistics.median(seconds), 3) if seconds else None
    return {"number": number, "seed": seed, **params, "seconds": cost, **accuracies}


def load_jobs(table: Path) -> set[tuple[int, int]]:
    """Return what a table holds."""
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
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num", type=int, default=240)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args()
    packed = pack(options.data, Path("~/.cache/cifake-search").expanduser())
    known = load_jobs(options.table)
    missing = [job for job in list_jobs(options.num) if job not in known]
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, initializer=_open, initargs=(packed,)) as pool:
        for row in pool.imap_unordered(learn, missing):
            write(options.table, row)
            print(row["number"], row["seed"], row["seconds"], row[f"epoch_{EPOCHS}"], flush=True)


_opened: list[Split] = []


def _open(packed: Path) -> None:
    """Open the data in a worker process, which yields to other processes."""
    os.nice(10)
    limit_threads(1)
    keep_memory()
    images = NUM_TRAIN + NUM_VAL
    _opened[:] = open_train(packed, val_fraction=NUM_VAL / images, seed=0, max_images=images)


def _splits() -> tuple[Split, Split]:
    train_split, val_split = _opened
    return train_split, val_split


if __name__ == "__main__":
    main()

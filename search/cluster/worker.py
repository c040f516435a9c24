"""The bridge: pulls epochs from `train` in a worker process and hands each to the driver.

A checkpoint is on the disk before its epoch is reported, so an epoch that the driver has recorded is never trained
again, and one that it has not recorded is reported from the checkpoint instead of being trained twice.
"""

import dataclasses
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from search.cluster.agreement import NodeError
from search.cluster.job import Failure, Report, Task
from search.record.checkpoints import Shelf
from trainables.config import build_train_config
from trainables.errors import DISK_FAULTS, TrainingError
from trainables.runtime import describe_device, limit_memory, limit_threads, pick_device
from trainables.splits import open_train
from trainables.train import train

T = TypeVar("T")

OUT_OF_MEMORY = (
    "out of GPU memory: grant its architecture more (resources.*.gpus), or keep its batch_size, filters and input_size "
    "smaller in the space"
)


def run_trial(deliver: Callable[[], str], task: Task) -> Iterator[Report | Failure]:
    """Train one trial, an epoch a step, from its checkpoint where there is one.

    Args:
        deliver: Brings this node the packed images, unless it has them, and returns their folder here.
        task: What to train.
    """
    epochs = _run(deliver, task)
    while (message := catch(lambda: next(epochs, None))) is not None:
        yield message


def catch(work: Callable[[], T]) -> T | Failure:
    """Return what the work returns, or why it cannot go on: that is one training's end and no other's.

    Raises:
        NodeError: If no training could go on here, so that it is none's end.
        torch.AcceleratorError: If this process has lost its GPU: whatever it is given next would fail too.
    """
    try:
        return work()
    except (NodeError, torch.AcceleratorError):
        raise
    except TrainingError as error:
        return Failure(str(error), "")
    except torch.OutOfMemoryError as error:
        return Failure(OUT_OF_MEMORY, str(error))
    except OSError as error:
        fault = error.errno if error.errno in DISK_FAULTS else None
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc(), fault)
    except Exception as error:  # noqa: BLE001 whatever a configuration does, the search goes on
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def prepare_device(cpus: float, gpus: float) -> torch.device:
    """Hold this process to what it was granted and return where it computes.

    Raises:
        TrainingError: If that is a GPU, and PyTorch sees none.
    """
    limit_threads(max(1, int(cpus)))
    device = pick_device() if gpus else torch.device("cpu")
    if gpus and device.type == "cpu":
        raise TrainingError(
            f"a GPU was granted, but PyTorch {torch.__version__} sees none: its build is for the CPU, or for a newer "
            "driver than this machine's"
        )
    if 0 < gpus < 1:
        limit_memory(device, gpus)
    return device


def _run(deliver: Callable[[], str], task: Task) -> Iterator[Report]:
    task = dataclasses.replace(task, pack=deliver())
    device = prepare_device(task.cpus, task.gpus)
    name = describe_device(device)
    config = build_train_config(task.architecture, task.params, epochs=task.max_epochs, seed=task.seed)
    train_split, val_split = open_train(
        Path(task.pack), val_fraction=task.val_fraction, seed=task.split_seed, max_images=task.max_train_images
    )
    path = Path(task.checkpoint).expanduser()
    shelf = Shelf(path=path, name=f"trial-{task.number}", identity=task.describe(), url=task.url)
    try:
        state = shelf.load()
        for metrics in state["history"][task.epochs_done :] if state else ():
            yield Report(metrics, name)
        for epoch in train(config, train_split, val_split, device=device, resume=state):
            shelf.save(epoch.state())
            if epoch.number > task.epochs_done:
                yield Report(epoch.metrics, name)
    finally:
        if task.url is not None:  # nobody else would: the driver deletes on its own node and in the store
            shelf.delete(stored=False)

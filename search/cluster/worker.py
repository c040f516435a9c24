"""Runs a job in a worker process: pulls epochs from a training and hands each to the driver.

A checkpoint is written before its epoch is reported. So an epoch that the driver recorded is trained again only if the
checkpoint is lost. An epoch that the driver did not record is reported from the checkpoint.
"""

import dataclasses
import functools
import platform
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from search.cluster.job import Failure, Finished, Job, NodeError, Report
from search.cluster.launch import Deliver
from search.record.provenance import hash_own, list_changed
from trainables.config import TrainConfig, build_train_config, get_architecture
from trainables.errors import DISK_FAULTS, FunctionError, InputError, TrainingError
from trainables.names import import_own, is_own
from trainables.own import Run, train_own
from trainables.runtime import (
    describe_device,
    keep_memory,
    limit_memory,
    limit_threads,
    pick_device,
    reset_peak_memory,
)
from trainables.splits import Split, open_full_train, open_train
from trainables.train import Epoch, train

T = TypeVar("T")

OUT_OF_MEMORY = (
    "out of GPU memory: grant its architecture a larger share of the GPU (resources.*.gpus), or make its batch_size, "
    "filters and input_size smaller in the space"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A job after its last epoch, in the process that trained it."""

    config: TrainConfig
    state: dict[str, Any]
    """The state of `Epoch.state` after the last epoch."""
    val_split: Split | None
    """None if the job trained on all images."""
    device: torch.device


Start = Callable[..., Iterator[Epoch]]
"""Function that trains from the state `resume`, or from the beginning if it is None."""
Finish = Callable[[Job, Trained], Any]
"""Function that runs after the last epoch of a job; its value is the job's result."""


def run_job(deliver: Deliver, finish: Finish | None, job: Job) -> Iterator[Report | Finished | Failure]:
    """Run a job, one message a step, from its checkpoint if there is one.

    Args:
        deliver: Copies the packed images to this node if it lacks them, and returns their folder here.
        finish: Runs after the last epoch; None ends the job with that epoch.
        job: The job.
    """
    yield from guard(train_job(deliver, finish, job))


def guard(messages: Iterator[Report | Finished]) -> Iterator[Report | Finished | Failure]:
    """Yield the messages of a job; an error becomes its last message."""
    while (message := catch(lambda: next(messages, None))) is not None:
        yield message


def train_job(deliver: Deliver, finish: Finish | None, job: Job) -> Iterator[Report | Finished]:
    """Do what `run_job` does, but raise what goes wrong."""
    job = dataclasses.replace(job, pack=deliver())
    device = prepare_device(job.cpus, job.gpus)
    name = describe_device(device)
    import_code(job)
    start, config, val_split = _prepare_own(job, device) if job.pack is None else _prepare_images(job, device)
    reset_peak_memory(device)
    checkpoint = job.build_checkpoint()
    try:
        state: Any = checkpoint.load() if checkpoint else None
        for metrics in state["history"][job.epochs_done :] if state else ():
            yield Report(metrics, name, state.get("precision"), is_new=False)
        if state is None or state["epoch"] < job.epochs:
            for epoch in start(resume=state):
                state = epoch.state()
                if checkpoint:
                    checkpoint.save(state)
                if epoch.number > job.epochs_done:
                    yield Report(epoch.metrics, name + epoch.remark, state.get("precision"))
                if epoch.number == job.epochs:
                    break
            else:
                if state is None:
                    raise TrainingError("the function ended before its first yield")
                yield Finished()
        assert state is not None, "a job has at least one epoch"
        if finish is not None and config is not None:
            config = dataclasses.replace(config, precision=state.get("precision", config.precision))
            yield Finished(finish(job, Trained(config=config, state=state, val_split=val_split, device=device)))
    finally:
        if checkpoint and job.url is not None:  # the driver deletes checkpoints only on its own node and in the store
            checkpoint.delete(stored=False)


def catch(work: Callable[[], T]) -> T | Failure:
    """Return the value of the work, or why it failed; a failure ends this job and no other.

    Raises:
        NodeError: If no job may run on this node; then this job does not count as failed.
        torch.AcceleratorError: If this process lost its GPU, so that its next job would fail too.
    """
    try:
        return work()
    except (NodeError, torch.AcceleratorError):
        raise
    except FunctionError as error:
        return Failure(str(error), "", blames_function=True)
    except TrainingError as error:  # with a cause if the user's code raised it
        return Failure(str(error), "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else "")
    except torch.OutOfMemoryError as error:
        return Failure(OUT_OF_MEMORY, str(error))
    except OSError as error:
        fault = error.errno if error.errno in DISK_FAULTS else None
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc(), fault)
    except Exception as error:  # noqa: BLE001 the other jobs continue, whatever error a configuration causes
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def prepare_device(cpus: float, gpus: float) -> torch.device:
    """Limit this process to its resources, let it keep its memory, and return the device to train on.

    Raises:
        NodeError: If a GPU was granted and PyTorch finds none: it would find none for the next job either.
    """
    limit_threads(max(1, int(cpus)))
    device = pick_device() if gpus else torch.device("cpu")
    if gpus and device.type == "cpu":
        raise NodeError(
            f"a GPU of {platform.node()} was granted, but PyTorch {torch.__version__} finds none: restart the GPU's "
            "driver, or install a build for CUDA that it supports"
        )
    if device.type == "cpu":
        keep_memory()
    if gpus:
        limit_memory(device, min(gpus, 1.0))  # the job before may have had another share
    return device


def import_code(job: Job) -> None:
    """Import the user's code that a job names.

    Raises:
        NodeError: If this node lacks the code, or has other code than the driver.
    """
    try:
        for name in filter(is_own, (job.architecture, str(job.params.get("optimizer")))):
            import_own(name, job.code, "code")
    except InputError as error:
        raise NodeError(f"a node lacks code of the study: {error}") from error
    if other := list_changed(job.own_hashes, hash_own(job.code)):
        raise NodeError(f"{other[0]} in {job.code} differs from the driver's: keep the same file on each node")


def _prepare_images(job: Job, device: torch.device) -> tuple[Start, TrainConfig, Split | None]:
    """Return what trains an image classifier, its configuration, and the images to validate on.

    Raises:
        NodeError: If the packed images are missing or damaged, and so would be for the next job.
    """
    assert job.pack is not None, "an image classifier is trained"
    chosen: dict[str, Any] = {"seed": job.split_seed, "max_images": job.max_train_images}
    try:
        if job.val_fraction is None:
            train_split, val_split = open_full_train(Path(job.pack), **chosen), None
        else:
            train_split, val_split = open_train(Path(job.pack), val_fraction=job.val_fraction, **chosen)
    except InputError as error:
        raise NodeError(f"{platform.node()} cannot read the packed images: {error}") from error
    size = train_split.images.shape[1]
    params = job.params | ({"precision": job.precision} if job.precision else {})
    config = build_train_config(job.architecture, params, epochs=job.max_epochs, seed=job.seed, size=size)
    return functools.partial(train, config, train_split, val_split, device=device), config, val_split


def _prepare_own(job: Job, device: torch.device) -> tuple[Start, None, None]:
    """Return the function that runs the training function of a job."""
    function = get_architecture(job.architecture)

    def start(resume: dict[str, Any] | None) -> Iterator[Epoch]:
        run = Run(seed=job.seed, device=device, max_epochs=job.max_epochs, number=job.number, resume=resume)
        return train_own(function, job.params, run, metric=job.metric)

    return start, None, None

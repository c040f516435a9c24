"""The bridge of one trial, without Ray: what a worker goes on from, and what it does not."""

import dataclasses
from itertools import islice

import pytest
import torch

from search.cluster.agreement import NodeError
from search.cluster.job import Failure, Report, Task
from search.cluster.worker import catch, run_trial

MEASURED = ("seconds", "images_per_second", "peak_memory_bytes")


def make_task(packed, tmp_path, **changes):
    task = Task(
        number=3,
        architecture="cnn",
        params={"filters": 4, "dense_units": 8, "batch_size": 8, "learning_rate": 0.001},
        seed=1,
        max_epochs=3,
        epochs_done=0,
        pack=str(packed),
        val_fraction=0.25,
        max_train_images=None,
        split_seed=0,
        checkpoint=str(tmp_path / "trial-3.ckpt"),
        cpus=1,
        gpus=0,
    )
    return dataclasses.replace(task, **changes)


def train(task):
    return run_trial(lambda: task.pack, task)


def read(messages):
    assert all(isinstance(message, Report) for message in messages), messages
    return [{name: value for name, value in each.metrics.items() if name not in MEASURED} for each in messages]


def test_a_trial_goes_on_from_its_checkpoint_and_reports_what_was_not_recorded(packed, tmp_path):
    straight = read(list(train(make_task(packed, tmp_path / "straight"))))
    task = make_task(packed, tmp_path)
    assert read(list(islice(train(task), 2))) == straight[:2]
    assert read(list(train(dataclasses.replace(task, epochs_done=1)))) == straight[1:]


def test_a_number_that_is_proposed_again_with_other_parameters_begins_anew(packed, tmp_path):
    """A head that vanished may have lost the proposal whose checkpoint lies there."""
    list(islice(train(make_task(packed, tmp_path)), 2))
    other = {"params": {"filters": 4, "dense_units": 8, "batch_size": 8, "learning_rate": 0.01}}
    fresh = read(list(train(make_task(packed, tmp_path / "fresh", **other))))
    assert [metrics["epoch"] for metrics in fresh] == [1, 2, 3]
    assert read(list(train(make_task(packed, tmp_path, **other)))) == fresh


def test_a_gpu_that_was_granted_and_is_not_there_is_the_trials_failure(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    [failure] = train(make_task(packed, tmp_path, gpus=0.5))
    assert "a GPU was granted, but PyTorch" in failure.reason


def test_a_worker_that_lost_its_gpu_does_not_go_on():
    def work():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        catch(work)


def test_a_model_that_does_not_fit_the_gpu_says_what_to_do():
    def work():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    failure = catch(work)
    assert "resources" in failure.reason
    assert "2.00 GiB" in failure.traceback


def test_what_a_trial_does_is_its_failure_and_what_its_node_is_is_not(packed, tmp_path):
    def deliver(error):
        def raise_error():
            raise error

        return raise_error

    task = make_task(packed, tmp_path)
    (failure,) = run_trial(deliver(ValueError("torn")), task)
    assert isinstance(failure, Failure)
    with pytest.raises(NodeError, match="other code"):
        next(run_trial(deliver(NodeError("other code")), task))

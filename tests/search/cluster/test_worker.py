"""One job, without Ray: from what a worker continues, and from what it does not."""

import dataclasses
import shutil
from itertools import islice

import pytest
import torch

from search.cluster.job import Failure, Finished, Job, NodeError, Report
from search.cluster.worker import catch, prepare_device, run_job
from trainables.config import WITHOUT_GRAPH
from trainables.step import Step

MEASURED = ("seconds", "images_per_second", "peak_memory_bytes")


def make_job(packed, tmp_path, **changes):
    job = Job(
        label="trial-3",
        number=3,
        architecture="cnn",
        params={"filters": 4, "dense_units": 8, "batch_size": 8, "learning_rate": 0.001},
        seed=1,
        max_epochs=3,
        epochs=3,
        epochs_done=0,
        pack=str(packed),
        val_fraction=0.25,
        max_train_images=None,
        split_seed=0,
        checkpoint=str(tmp_path / "trial-3.ckpt"),
        cpus=1,
        gpus=0,
    )
    return dataclasses.replace(job, **changes)


def train(job):
    return run_job(lambda: job.pack, None, job)


def read(messages):
    assert all(isinstance(message, Report) for message in messages), messages
    return [{name: value for name, value in each.metrics.items() if name not in MEASURED} for each in messages]


def test_a_trial_continues_from_its_checkpoint_and_reports_what_was_not_recorded(packed, tmp_path):
    straight = read(list(train(make_job(packed, tmp_path / "straight"))))
    job = make_job(packed, tmp_path)
    assert read(list(islice(train(job), 2))) == straight[:2]
    assert read(list(train(dataclasses.replace(job, epochs_done=1)))) == straight[1:]


def test_the_device_of_an_epoch_says_why_its_steps_were_not_recorded(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(Step, "remark", f"{WITHOUT_GRAPH}out of memory")
    first = next(train(make_job(packed, tmp_path)))
    assert first.device.endswith(", without a CUDA graph: out of memory")


def test_a_number_that_is_proposed_again_with_other_parameters_starts_at_epoch_1(packed, tmp_path):
    """A head that vanished may have lost the proposal of the stored checkpoint."""
    list(islice(train(make_job(packed, tmp_path)), 2))
    other = {"params": {"filters": 4, "dense_units": 8, "batch_size": 8, "learning_rate": 0.01}}
    fresh = read(list(train(make_job(packed, tmp_path / "fresh", **other))))
    assert [metrics["epoch"] for metrics in fresh] == [1, 2, 3]
    assert read(list(train(make_job(packed, tmp_path, **other)))) == fresh


def test_a_granted_gpu_that_is_missing_is_no_failure_of_a_trial(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NodeError, match=r"was granted, but PyTorch .* finds none"):
        next(train(make_job(packed, tmp_path, gpus=0.5)))


def test_each_job_of_a_process_has_the_share_of_the_gpu_that_it_was_granted(monkeypatch):
    limits = []
    monkeypatch.setattr("search.cluster.worker.pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("search.cluster.worker.limit_memory", lambda _, fraction: limits.append(fraction))
    monkeypatch.setattr("search.cluster.worker.limit_threads", lambda _: None)
    for gpus in (0.25, 1, 2, 0):
        prepare_device(1, gpus)
    assert limits == [0.25, 1, 1]


@pytest.mark.parametrize("val_fraction", [0.25, None])
def test_images_that_are_gone_are_no_failure_of_a_trial(packed, tmp_path, val_fraction):
    job = make_job(shutil.copytree(packed, tmp_path / "pack"), tmp_path, val_fraction=val_fraction)
    straight = read(list(train(job)))
    shutil.rmtree(tmp_path / "pack")
    (tmp_path / "trial-3.ckpt").unlink()
    with pytest.raises(
        NodeError, match=r"cannot read the packed images: .*pack is not a complete pack .* pack it again"
    ):
        list(train(job))
    shutil.copytree(packed, tmp_path / "pack")
    assert read(list(train(job))) == straight


@pytest.mark.parametrize("is_native", [False, True])
def test_a_trial_reports_its_precision(packed, tmp_path, monkeypatch, is_native):
    monkeypatch.setattr("trainables.runtime.multiplies_bfloat16", lambda: is_native)
    [first, *_] = train(make_job(packed, tmp_path))
    assert first.precision == ("bfloat16" if is_native else "float32")


def test_a_trial_that_moves_to_another_machine_keeps_its_precision(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("trainables.runtime.multiplies_bfloat16", lambda: True)
    straight = list(train(make_job(packed, tmp_path / "straight")))
    list(islice(train(make_job(packed, tmp_path)), 2))
    monkeypatch.setattr("trainables.runtime.multiplies_bfloat16", lambda: False)
    moved = list(train(make_job(packed, tmp_path, epochs_done=1, precision="bfloat16")))
    assert read(moved) == read(straight)[1:]
    without_checkpoint = make_job(packed, tmp_path / "lost", epochs_done=1, precision="bfloat16")
    assert read(list(train(without_checkpoint))) == read(straight)[1:]
    assert {each.precision for each in moved} == {"bfloat16"}


def test_every_job_on_a_cpu_keeps_the_memory_of_its_process(packed, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("search.cluster.worker.keep_memory", lambda: calls.append("kept"))
    for _ in range(2):
        list(islice(train(make_job(packed, tmp_path)), 1))
    assert calls == ["kept", "kept"]


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


def test_an_error_of_the_training_fails_its_trial_and_an_error_of_the_node_does_not(packed, tmp_path):
    def deliver(error):
        def raise_error():
            raise error

        return raise_error

    job = make_job(packed, tmp_path)
    (failure,) = run_job(deliver(ValueError("torn")), None, job)
    assert isinstance(failure, Failure)
    with pytest.raises(NodeError, match="other code"):
        next(run_job(deliver(NodeError("other code")), None, job))


def test_a_job_ends_with_its_last_epoch_which_may_come_before_the_end_of_the_schedule(packed, tmp_path):
    """The epochs before it are those of the whole schedule; what follows them is given the state of the last one."""
    straight = read(list(train(make_job(packed, tmp_path / "straight"))))
    job = make_job(packed, tmp_path, epochs=2)

    def finish(finished, trained):
        return finished.label, trained.state["epoch"], len(trained.val_split)

    for is_new in (True, False):
        *reports, last = run_job(lambda: job.pack, finish, job)
        assert read(reports) == straight[:2]
        assert [report.is_new for report in reports] == [is_new] * 2
        assert last == Finished(("trial-3", 2, 9))


def test_a_job_without_a_checkpoint_writes_nothing(packed, tmp_path):
    assert len(read(list(train(make_job(packed, tmp_path, checkpoint=None))))) == 3
    assert list(tmp_path.iterdir()) == []

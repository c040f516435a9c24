"""The study on a real Ray Tune, with a closed-form learning curve in place of training."""

import dataclasses
import itertools
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch

from search.cluster.job import Failure, Job, NodeError, Report
from search.cluster.nodes import connect, count_slots
from search.cluster.runner import run_study
from search.cluster.signals import Interrupted
from search.cluster.worker import catch
from search.config.load import parse
from search.record.journal import Journal
from search.record.requests import Inbox, Request, send_request
from search.record.trial import Listener, State
from search.study import Study
from trainables.errors import InputError, TrainingError
from trainables.own import Run, train_own

pytestmark = [pytest.mark.ray]


def build_config(**search):
    settings = {"num_trials": 10, "max_epochs": 5, "architectures": ["cnn"], "max_failures": 1, **search}
    space = {"cnn": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
    return parse({"name": "x", "search": settings, "space": space, "cluster": {"cpus": 2}})


def open_study(config, folder, listeners=()):
    return Study(config, Journal(folder / "study.journal", "x", note=print), listeners)


def make_job(trial):
    return Job(
        label=f"trial-{trial.number}",
        number=trial.number,
        architecture=trial.architecture,
        params=trial.params,
        seed=0,
        max_epochs=5,
        epochs=5,
        epochs_done=len(trial.epochs),
        pack="",
        val_fraction=0.1,
        max_train_images=None,
        split_seed=0,
        checkpoint=None,
        cpus=1,
        gpus=0,
    )


def make_work(folder):
    """Return a worker's function: trial 1 breaks, trial 2 loses its process once, trial 3 always."""

    def work(job):
        import math

        for epoch in range(job.epochs_done + 1, job.max_epochs + 1):
            if job.number == 1 and epoch == 2:
                yield Failure("loss is nan in epoch 2", "")
            marker = folder / f"died-{job.number}"
            if job.number == 3 or (job.number == 2 and epoch == 2 and not marker.exists()):
                marker.touch()
                os._exit(1)
            accuracy = 0.9 - 0.1 * abs(math.log10(job.params["learning_rate"]) + 2.5) / epoch
            metrics = {"epoch": epoch, "accuracy": accuracy, "seconds": 0.01, "images_per_second": 100.0}
            yield Report(metrics, "a closed form")

    return work


def test_a_search_with_broken_trials_and_lost_workers_ends_whole(tmp_path):
    config = build_config(num_trials=6, scheduler="none")
    study = open_study(config, tmp_path)
    with connect(config) as nodes:
        assert count_slots(config, nodes) == 2
        run_study(study, make_work(tmp_path), make_job, slots=2)
    recorded = open_study(config, tmp_path)
    assert recorded.is_over
    assert [(t.state, t.epochs) for t in recorded.trials] == [(t.state, t.epochs) for t in study.trials]
    states = [trial.state for trial in recorded.trials]
    assert states == [State.COMPLETE, State.FAIL, State.COMPLETE, State.FAIL, State.COMPLETE, State.COMPLETE]
    assert recorded.trials[1].reason == "loss is nan in epoch 2"
    assert recorded.trials[3].reason.startswith("its worker broke down 2 times, last: ")
    assert not recorded.trials[3].reason.endswith("None")
    assert (tmp_path / "died-2").exists()
    for trial in recorded.trials:
        assert [metrics["epoch"] for metrics in trial.epochs] == list(range(1, len(trial.epochs) + 1))


def test_a_worker_that_ray_ends_to_free_memory_counts_as_broken_down(tmp_path, monkeypatch):
    """Ray takes the machine's memory as full from a ten-thousandth on, so it is full."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.0001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")

    def work(job):
        time.sleep(60)
        yield Failure(f"trial {job.number} was left alone", "")

    study = open_study(build_config(num_trials=2, max_failures=0), tmp_path)
    with connect(study.config):
        run_study(study, work, make_job, slots=2)
    for trial in study.trials:
        assert trial.state is State.FAIL
        assert trial.reason.startswith("its worker broke down 1 times, last: ")
        assert "memory" in trial.attributes["traceback"]
        assert trial.lacked_memory


def test_a_full_object_store_costs_a_search_nothing(tmp_path):
    """All that driver and worker tell each other is small enough to need no room there."""

    def work(job):
        held = [ray.put(bytes(30 * 2**20)) for _ in range(5)]
        yield from train(job)
        held.clear()

    study = open_study(build_config(num_trials=2, scheduler="none"), tmp_path)
    with connect(study.config):
        assert ray.cluster_resources()["object_store_memory"] < 5 * 30 * 2**20
        filling = [ray.put(bytes(30 * 2**20)) for _ in range(5)]
        run_study(study, work, make_job, slots=2)
        filling.clear()
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 2


def test_requests_during_a_search_are_done_at_once(tmp_path):
    """Trial 0 ends when the point that was asked for is trained, trial 1 hangs until it is stopped."""
    config = parse(
        {
            "name": "x",
            "search": {"num_trials": 2, "max_epochs": 5, "architectures": ["cnn"], "scheduler": "none"},
            "space": {
                "cnn": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "filters": {"choice": [8, 9]}}
            },
            "cluster": {"cpus": 2},
        }
    )

    def work(job):
        for epoch in range(1, job.max_epochs + 1):
            while (job.number == 0 and epoch == 4 and not (tmp_path / "asked").exists()) or (
                job.number == 1 and epoch == 3
            ):
                time.sleep(0.05)
            if job.number == 2:
                (tmp_path / "asked").touch()
            yield Report({"epoch": epoch, "accuracy": 0.5, "seconds": 0.01}, "a closed form")

    class Asking(Listener):
        def on_epoch(self, trial):
            if trial.number == 1 and len(trial.epochs) == 2:
                send_request(tmp_path, Request(ask=None, trial=1))
                send_request(tmp_path, Request(ask={"cnn.filters": 9}, trial=None))

    study = open_study(config, tmp_path, [Asking()])
    with connect(study.config):
        halted = run_study(study, work, make_job, slots=2, inbox=Inbox(tmp_path, print))
    assert halted is None
    told = [(trial.state, len(trial.epochs), trial.reason) for trial in open_study(config, tmp_path).trials]
    assert told == [
        (State.COMPLETE, 5, None),
        (State.PRUNED, 2, "stopped by hand after 2 epochs"),
        (State.COMPLETE, 5, None),
    ]
    assert study.trials[2].params["filters"] == 9


def test_a_search_that_is_stopped_from_outside_halts_during_an_epoch(tmp_path):
    def work(job):
        yield from itertools.islice(train(job), 2)
        time.sleep(1000)

    class Stopping(Listener):
        def on_epoch(self, _):
            if all(len(each.epochs) == 2 for each in study.trials[:2]) and len(study.trials) > 1:
                send_request(tmp_path, Request(ask=None, trial=None))

    study = open_study(build_config(scheduler="none"), tmp_path, [Stopping()])
    with connect(study.config):
        halted = run_study(study, work, make_job, slots=2, inbox=Inbox(tmp_path, print))
    assert halted == "it was stopped by hand, with search.num_trials = 10"
    assert [trial.state for trial in study.trials] == [State.PRUNED] * 2


def train(job):
    for epoch in range(job.epochs_done + 1, job.max_epochs + 1):
        metrics = {"epoch": epoch, "accuracy": 0.5, "seconds": 0.01, "images_per_second": 100.0, "pid": os.getpid()}
        yield Report(metrics, "a closed form")


@pytest.mark.parametrize(("max_failures", "state"), [(0, State.FAIL), (1, State.COMPLETE)])
@pytest.mark.parametrize("is_killed", [True, False])
@pytest.mark.usefixtures("two_cores")
def test_a_worker_that_breaks_as_it_is_made_ready_for_its_next_trial_counts_once(
    tmp_path, is_killed, max_failures, state
):
    config = build_config(num_trials=3, scheduler="none", max_failures=max_failures)

    def work(job):
        marker = tmp_path / "broke"
        if job.number == 1 and "SERVED" in os.environ and not marker.exists():
            marker.touch()
            if is_killed:
                os._exit(1)
            raise OSError("the folder is gone")
        os.environ["SERVED"] = "this process has had a trial"
        return train(job)

    study = open_study(config, tmp_path)
    assert run_study(study, work, make_job, slots=1) is None
    assert (tmp_path / "broke").exists()
    assert [trial.state for trial in study.trials] == [State.COMPLETE, state, State.COMPLETE]
    assert (study.trials[1].reason or "").startswith("its worker broke down 1 times" if max_failures == 0 else "")


@pytest.mark.usefixtures("two_cores")
def test_a_worker_that_raises_is_not_used_again(tmp_path):
    """What it raised may have been a fault of its GPU, after which nothing works in that process."""
    config = build_config(num_trials=3, scheduler="none", max_failures=1)
    marker = tmp_path / "raised"

    def work(job):
        for report in train(job):
            if job.number == 1 and report.metrics["epoch"] == 3 and not marker.exists():
                marker.write_text(str(os.getpid()))
                raise RuntimeError("an illegal memory access was encountered")
            yield report

    study = open_study(config, tmp_path)
    run_study(study, work, make_job, slots=1)
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 3
    broken = int(marker.read_text())
    assert [metrics["pid"] == broken for metrics in study.trials[1].epochs] == [True, True, False, False, False]
    assert broken not in {metrics["pid"] for metrics in study.trials[2].epochs}


@pytest.mark.usefixtures("two_cores")
def test_a_worker_that_always_raises_ends_its_trial_with_its_error(tmp_path):
    config = build_config(num_trials=2, scheduler="none", max_failures=1)

    def work(job):
        if job.number == 0:
            raise RuntimeError("an illegal memory access was encountered")
        yield from train(job)

    study = open_study(config, tmp_path)
    run_study(study, work, make_job, slots=1)
    assert [trial.state for trial in study.trials] == [State.FAIL, State.COMPLETE]
    assert study.trials[0].reason.startswith("its worker broke down 2 times, last: ")
    assert study.trials[0].reason.endswith("an illegal memory access was encountered")


@pytest.mark.usefixtures("two_cores")
def test_a_worker_that_is_asked_to_end_as_its_node_shuts_down_does_not_count(tmp_path):
    config = build_config(num_trials=2, scheduler="none", max_failures=0)

    def work(job):
        for report in train(job):
            marker = tmp_path / f"asked-{report.metrics['epoch']}"
            if job.number == 0 and report.metrics["epoch"] in (2, 3) and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(100)
            yield report

    study = open_study(config, tmp_path)
    run_study(study, work, make_job, slots=1)
    assert {path.name for path in tmp_path.glob("asked-*")} == {"asked-2", "asked-3"}
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 2


@pytest.mark.usefixtures("two_cores")
def test_a_search_that_ends_with_a_trial_left_says_so_and_can_be_resumed(tmp_path):
    config = build_config(num_trials=2, scheduler="none")

    def leave(job):
        reports = list(train(job))
        yield from reports if job.number else reports[:2]

    with pytest.raises(TrainingError, match=r"^Ray ended the search before trial 0 had ended; --resume continues it$"):
        run_study(open_study(config, tmp_path), leave, make_job, slots=1)
    resumed = open_study(config, tmp_path)
    assert [trial.state for trial in resumed.trials] == [State.RUNNING, State.COMPLETE]
    assert run_study(resumed, train, make_job, slots=1) is None
    assert [trial.state for trial in resumed.trials] == [State.COMPLETE] * 2


@pytest.mark.usefixtures("two_cores")
def test_trials_run_side_by_side(tmp_path):
    """Each waits in its worker until the other one of its pair runs in another."""
    config = build_config(num_trials=4, scheduler="none", max_epochs=1)

    def work(job):
        (tmp_path / str(job.number)).touch()
        while not (tmp_path / str(job.number ^ 1)).exists():
            time.sleep(0.05)
        yield Report({"epoch": 1, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 1.0}, "a waiter")

    class Watcher:
        """Cannot be sent to a worker."""

        def __init__(self):
            self.unpicklable = threading.Lock()

        def on_start(self, _):
            pass

        def on_epoch(self, _):
            pass

        def on_end(self, _):
            pass

        def close(self):
            pass

    study = open_study(config, tmp_path, [Watcher()])
    run_study(study, work, make_job, slots=2)
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 4


def test_trials_run_in_the_workers_that_ray_has_started_already(tmp_path):
    config = build_config(num_trials=4, scheduler="none", max_epochs=1)

    def work(_):
        yield Report({"epoch": 1, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 1.0, "pid": os.getpid()}, "any")

    study = open_study(config, tmp_path)
    with connect(config):
        started = {}
        while sum("ray::IDLE" in title for title in started.values()) < 2:
            time.sleep(0.05)
            family = {process.pid for process in psutil.Process().children(recursive=True)}
            titles = {process.pid: process.info["cmdline"] for process in psutil.process_iter(["cmdline"])}
            started = {pid: " ".join(titles[pid] or ()) for pid in family & titles.keys()}
        run_study(study, work, make_job, slots=2)
    assert {trial.epochs[0]["pid"] for trial in study.trials} <= started.keys()


@pytest.mark.usefixtures("two_cores")
def test_a_trial_that_hangs_fails_and_the_search_continues(tmp_path):
    config = build_config(num_trials=3, scheduler="none", max_epochs=2, trial_timeout_s=10.0)

    def work(job):
        for epoch in (1, 2):
            if job.number == 1 and epoch == 2:
                time.sleep(10_000)  # longer than the test may take
            yield Report({"epoch": epoch, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 1.0}, "a sleeper")

    study = open_study(config, tmp_path)
    run_study(study, work, make_job, slots=2)
    assert [trial.state for trial in study.trials] == [State.COMPLETE, State.FAIL, State.COMPLETE]
    assert study.trials[1].reason == "no epoch within 10 seconds"
    assert len(study.trials[1].epochs) == 1


@pytest.mark.usefixtures("two_cores")
def test_ctrl_c_waits_for_no_epoch_and_leaves_every_trial_to_go_on(tmp_path):
    config = build_config(num_trials=4, scheduler="none", max_epochs=2)

    def work(_):
        yield Report({"epoch": 1, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 1.0}, "a sleeper")
        time.sleep(10_000)  # longer than the test may take

    class Presser:
        """Presses Ctrl-C when two trials have an epoch each."""

        def __init__(self):
            self.seen = set()

        def on_start(self, _):
            pass

        def on_epoch(self, trial):
            self.seen.add(trial.number)
            if len(self.seen) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        def on_end(self, _):
            pass

        def close(self):
            pass

    study = open_study(config, tmp_path, [Presser()])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted):
            run_study(study, work, make_job, slots=2)
    finally:
        signal.signal(signal.SIGINT, before)
    resumed = open_study(config, tmp_path)
    assert [trial.state for trial in resumed.trials[:2]] == [State.RUNNING] * 2
    assert [len(trial.epochs) for trial in resumed.trials[:2]] == [1, 1]
    assert [resumed.ask().number, resumed.ask().number] == [0, 1]


def be_full():
    yield catch(lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"1"))


def be_read_only():
    yield catch(lambda: Path("/proc/sys/kernel/ostype").write_text("x"))  # also for root: EACCES, in a container EROFS


def be_wrong():
    def walk(run):
        for _ in run.epochs():
            yield {"loss": 0.5}

    run = Run(seed=0, device=torch.device("cpu"), max_epochs=2, number=1)
    yield catch(lambda: next(train_own(walk, {}, run, metric="accuracy")))


def be_another():
    raise NodeError("node 10.0.0.7 has other code")
    yield


@pytest.mark.parametrize(
    ("obstacle", "error", "message"),
    [
        (be_full, OSError, r"\[Errno 28\] trial-1: .*No space left"),
        (be_read_only, OSError, r"\[Errno (13|30)\] trial-1: .*(Permission denied|Read-only file system)"),
        (be_wrong, InputError, r"^trial-1: epoch 1 yielded no accuracy, only loss: yield it"),
        (be_another, NodeError, r"^node 10\.0\.0\.7 has other code$"),
    ],
)
@pytest.mark.usefixtures("two_cores")
def test_a_disk_that_fails_or_a_node_that_may_not_train_ends_the_search_but_no_trial(
    tmp_path, obstacle, error, message
):
    config = build_config(num_trials=2, scheduler="none", max_epochs=2, max_failures=0)
    marker = tmp_path / "mended"

    def work(job):
        if job.number == 1 and not marker.exists():
            yield from obstacle()
        for epoch in range(job.epochs_done + 1, 3):
            yield Report({"epoch": epoch, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 1.0}, "any")

    with pytest.raises(error, match=message):
        run_study(open_study(config, tmp_path), work, make_job, slots=1)
    resumed = open_study(config, tmp_path)
    assert [trial.state for trial in resumed.trials] == [State.COMPLETE, State.RUNNING]
    marker.touch()
    run_study(resumed, work, make_job, slots=1)
    assert [trial.state for trial in resumed.trials] == [State.COMPLETE, State.COMPLETE]


def test_a_trial_that_fits_no_node_is_refused():
    config = parse({"name": "x", "resources": {"cnn": {"cpus": 3}}, "cluster": {"cpus": 2}})
    with pytest.raises(InputError, match="asks for 3 CPUs and 0 GPUs, but the nodes have 2 CPUs"), connect(config):
        pass


def test_an_address_where_no_cluster_answers_is_refused():
    config = parse({"name": "x", "cluster": {"address": "127.0.0.1:1"}})
    with pytest.raises(InputError, match="no Ray cluster answers"), connect(config):
        pass


def test_all_trials_that_may_run_are_waiting_at_once_for_nodes_that_are_still_to_come(tmp_path):
    """An autoscaler starts a node for each placement group that waits; a worker counts them."""
    config = build_config(num_trials=4, scheduler="none", max_epochs=1)

    def work(job):
        from ray.util import placement_group_table

        waiting, deadline = 0, time.monotonic() + 60
        while job.number == 0 and waiting < 3 and time.monotonic() < deadline:
            waiting = sum(group["state"] == "PENDING" for group in placement_group_table().values())
        metrics = {"epoch": 1, "accuracy": waiting / 10, "seconds": 1.0, "images_per_second": 1.0}
        yield Report(metrics, "a counter")

    study = open_study(config, tmp_path)
    config = dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, cpus=1, max_nodes=4))
    with connect(config) as nodes:
        assert count_slots(config, nodes) == 4
        run_study(study, work, make_job, slots=count_slots(config, nodes))
    assert study.trials[0].epochs[0]["accuracy"] == 0.3  # of four, one runs

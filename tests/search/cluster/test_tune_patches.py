"""Each patch of Ray Tune: Ray still has the names that it changes, and without it Ray still has the fault."""

import contextlib
import os
import time

import psutil
import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune import TuneError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController

from search.cluster import runner, tune_patches
from search.cluster.job import Finished, Job, Report
from search.cluster.nodes import connect
from search.config.load import parse

pytestmark = [pytest.mark.ray]

CONFIG = parse({"name": "x", "search": {"max_failures": 1}, "cluster": {"cpus": 2}})


class Jobs:
    """A source of so many jobs that keeps their results and failures by number."""

    halt_reason = None

    def __init__(self, count):
        self.waiting = list(range(count))
        self.ended = {}

    def ask(self):
        return make_job(self.waiting.pop(0)) if self.waiting else None

    def report(self, number, message):
        if isinstance(message, Finished):
            self.ended[number] = message.result
        return isinstance(message, Finished)

    def fail(self, number, failure):
        self.ended[number] = failure.reason


def make_job(number):
    return Job(
        label=f"job-{number}",
        number=number,
        architecture="cnn",
        params={},
        seed=0,
        max_epochs=1,
        epochs=1,
        pack="",
        val_fraction=None,
        max_train_images=None,
        split_seed=0,
        checkpoint=None,
        cpus=1,
        gpus=0,
    )


def run_without(monkeypatch, patch, source, work, *, slots=1):
    """Run jobs with one patch left out."""
    monkeypatch.setattr(tune_patches, patch, contextlib.nullcontext)
    runner.run_jobs(source, work, CONFIG, slots=slots)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (class_cache, "DEFAULT_ENV_VARS"),
        (class_cache, "ENV_VARS_TO_PROPAGATE"),
        (RayActorManager, "_actor_start_failed"),
        (RayActorManager, "_actor_task_failed"),
        (TuneController, "_actor_failed"),
        (TuneController, "_process_trial_failure"),
        (TuneController, "_unstage_trial_with_resources"),
        (TuneController, "_set_trial_status"),
    ],
)
def test_ray_has_the_names_that_are_patched_or_called(owner, name):
    assert name in vars(owner)


@pytest.mark.parametrize("name", ["_actor_to_trial", "_resetting_trials"])
def test_ray_sets_the_attributes_that_the_patches_read(name):
    assert name in TuneController.__init__.__code__.co_names


def test_without_its_patch_tune_starts_new_processes_next_to_those_that_wait(monkeypatch):
    def work(_):
        yield Finished(os.getpid())

    with connect(CONFIG):
        waiting = set()
        while len(waiting) < 2:
            time.sleep(0.05)
            family = psutil.Process().children(recursive=True)
            waiting = {each.pid for each in family if "ray::IDLE" in read_title(each)}
        source = Jobs(2)
        run_without(monkeypatch, "take_waiting_workers", source, work, slots=2)
    assert not set(source.ended.values()) & waiting


def read_title(process):
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def test_without_its_patch_a_worker_that_ray_ends_to_free_memory_ends_the_run(monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.0001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")

    def work(_):
        time.sleep(60)
        yield Finished("left alone")

    source = Jobs(1)
    error = (
        RuntimeError,
        TypeError,
    )  # as its job runs: an unexpected exception; as it starts: a failure without a file
    with connect(CONFIG), pytest.raises(error):
        run_without(monkeypatch, "count_every_loss", source, work)
    assert source.ended == {}


@pytest.mark.usefixtures("two_cores")
def test_without_its_patch_a_job_whose_worker_dies_during_reset_is_lost(monkeypatch, tmp_path):
    def work(job):
        marker = tmp_path / "broke"
        if job.number == 1 and "SERVED" in os.environ and not marker.exists():
            marker.touch()
            os._exit(1)
        os.environ["SERVED"] = "this process has had a job"
        return iter([Report({"epoch": 1}, "any"), Finished("trained")])

    source = Jobs(3)
    with contextlib.suppress(Exception):
        run_without(monkeypatch, "count_resets", source, work)
    assert (tmp_path / "broke").exists()
    assert source.ended.get(1) != "trained"


@pytest.mark.usefixtures("two_cores")
def test_without_its_patch_the_error_of_a_source_is_a_text_of_tunes(monkeypatch):
    class Full(Jobs):
        def report(self, number, message):  # noqa: ARG002 a source's names
            raise OSError(28, "No space left on device")

    def work(_):
        yield Report({"epoch": 1}, "any")

    with pytest.raises(TuneError, match="No space left on device"):
        run_without(monkeypatch, "unwrap", Full(1), work)
    assert ray.is_initialized()

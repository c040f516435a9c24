"""Retrainings on a real Ray, with a few made-up words in place of training, and what ends their workers."""

import io
import os
import signal
import time

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from search.cluster.job import Finished, Job, Report
from search.cluster.nodes import connect
from search.cluster.signals import Interrupted
from search.cluster.worker import catch
from search.config.load import parse
from search.evaluation.retrainer import Retrainer
from search.evaluation.retrainings import ModelFolder
from trainables.errors import TrainingError

pytestmark = [pytest.mark.ray]

STORE_BYTES = 80 * 2**20
"""Of a node's object store, the least that Ray accepts."""


def build_retrainer(packed, folder, output=None, *, max_failures, address="local"):
    search = {"architectures": ["cnn"], "max_failures": max_failures}
    cluster = {"address": address, **({"cpus": 1} if address == "local" else {})}
    data = {"cache": str(folder / "cache")}
    config = parse({"name": "x", "results": str(folder), "search": search, "cluster": cluster, "data": data})
    config.directory.mkdir()
    (config.directory / "study.yaml").touch()  # which every process that trains must see
    console = Console(file=output or io.StringIO(), soft_wrap=True)
    return Retrainer(config=config, pack=packed, folder=ModelFolder(str(folder)), console=console)


def make_job(label, number=0):
    return Job(
        label=label,
        number=number,
        architecture="cnn",
        params={},
        seed=0,
        max_epochs=2,
        epochs=2,
        pack="",
        val_fraction=None,
        max_train_images=None,
        split_seed=0,
        checkpoint=None,
        cpus=1,
        gpus=0,
    )


def make_work(folder, end):
    """Return a retraining of two epochs that calls `end` after the first of its first attempts, given their count."""

    def work(job):
        attempts = folder / job.label
        before = len(attempts.read_text()) if attempts.exists() else 0
        attempts.write_text("x" * (before + 1))
        for epoch in (1, 2):
            yield Report({"epoch": epoch, "train_loss": 1.0}, "any")
            if epoch == 1:
                end(job.label, before)
        yield Finished(0.25)

    return work


def exit_twice(label, before):
    if label == "breaks" and before < 2:
        os._exit(1)


def raise_twice(label, before):
    if label == "breaks" and before < 2:
        raise RuntimeError("an illegal memory access was encountered")


def be_asked_twice(label, before):
    if label == "breaks" and before < 2:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(100)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("end", [exit_twice, raise_twice])
def test_a_retraining_whose_worker_breaks_down_is_started_again_so_often_and_then_failed(packed, tmp_path, end):
    jobs = [make_job("breaks"), make_job("other", 1)]
    (tmp_path / "patient").mkdir()
    patient = build_retrainer(packed, tmp_path / "patient", max_failures=2)
    (tmp_path / "strict").mkdir()
    strict = build_retrainer(packed, tmp_path / "strict", max_failures=1)
    assert patient.run(jobs, make_work(tmp_path / "patient", end)) == {"breaks": 0.25, "other": 0.25}
    found = strict.run(jobs, make_work(tmp_path / "strict", end))
    assert found["other"] == 0.25
    assert found["breaks"].reason.startswith("its worker broke down 2 times, last: ")
    assert found["breaks"].is_breakdown
    assert (tmp_path / "patient" / "breaks").read_text() == "xxx"
    assert (tmp_path / "strict" / "breaks").read_text() == "xx"


@pytest.mark.usefixtures("two_cores")
def test_a_retraining_whose_worker_is_asked_to_end_as_its_node_shuts_down_continues(packed, tmp_path):
    retrainer = build_retrainer(packed, tmp_path, max_failures=0)
    assert retrainer.run([make_job("breaks")], make_work(tmp_path, be_asked_twice)) == {"breaks": 0.25}
    assert (tmp_path / "breaks").read_text() == "xxx"


class Remover(io.StringIO):
    """Output that takes the node away as soon as it shows the first epoch, and brings another one."""

    def __init__(self, cluster, *, in_order):
        super().__init__()
        self.cluster, self.in_order = cluster, in_order
        self.node = add_node(cluster)

    def write(self, text):
        if self.node is not None and "epoch 1/" in text:
            node, self.node = self.node, None
            self.cluster.remove_node(node, allow_graceful=self.in_order)
            add_node(self.cluster)
        return super().write(text)


def add_node(cluster):
    return cluster.add_node(wait=False, num_cpus=1, object_store_memory=STORE_BYTES)


@pytest.mark.parametrize("in_order", [False, True])
def test_a_retraining_whose_node_vanishes_continues_elsewhere_and_that_does_not_count(packed, tmp_path, in_order):
    def wait_at_first(_, before):
        while before == 0:
            time.sleep(1)

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        output = Remover(cluster, in_order=in_order)
        retrainer = build_retrainer(packed, tmp_path, output, max_failures=0, address=cluster.address)
        with connect(retrainer.config):
            found = retrainer.run([make_job("moves")], make_work(tmp_path, wait_at_first))
    finally:
        cluster.shutdown()
    assert found == {"moves": 0.25}
    assert (tmp_path / "moves").read_text() == "xx"


@pytest.mark.usefixtures("two_cores")
def test_retrainings_share_their_workers_and_show_each_epoch_once(packed, tmp_path):
    """Two at a time fit; each process serves several, and one that a checkpoint shortened repeats no line."""

    def work(job):
        yield Report({"epoch": 1, "train_loss": 1.0}, "any", is_new=job.number > 0)
        yield Report({"epoch": 2, "train_loss": 0.5}, "any")
        yield Finished(os.getpid() / 1)

    shown = io.StringIO()
    found = build_retrainer(packed, tmp_path, shown, max_failures=0).run([make_job(f"m{n}", n) for n in range(6)], work)
    assert len(found) == 6
    assert len(set(found.values())) <= 2
    lines = shown.getvalue().splitlines()
    assert "  m0: epoch 1/2, train loss 1.0000" not in lines
    assert lines.count("  m1: epoch 1/2, train loss 1.0000") == 1
    assert sum("epoch 2/2, train loss 0.5000" in line for line in lines) == 6


@pytest.mark.usefixtures("two_cores")
def test_an_evaluation_that_ends_with_a_retraining_left_names_it(packed, tmp_path):
    def work(job):
        yield Report({"epoch": 1, "train_loss": 1.0}, "any")
        if job.number:
            yield Finished(0.25)

    with pytest.raises(TrainingError, match="before lost had ended"):
        build_retrainer(packed, tmp_path, max_failures=0).run([make_job("lost"), make_job("kept", 1)], work)


@pytest.mark.usefixtures("two_cores")
def test_a_disk_that_fails_ends_the_evaluation_and_names_the_retraining(packed, tmp_path):
    def work(_):
        yield catch(lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"1"))

    with pytest.raises(OSError, match=r"\[Errno 28\] full: .*No space left"):
        build_retrainer(packed, tmp_path, max_failures=0).run([make_job("full")], work)


@pytest.mark.usefixtures("two_cores")
def test_ctrl_c_ends_an_evaluation_without_waiting_for_an_epoch(packed, tmp_path):
    class Presser(io.StringIO):
        """Presses Ctrl-C at the first epoch."""

        def write(self, text):
            if "epoch 1/" in text:
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    def work(_):
        yield Report({"epoch": 1, "train_loss": 1.0}, "any")
        time.sleep(10_000)  # longer than the test may take

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted):
            build_retrainer(packed, tmp_path, Presser(), max_failures=0).run([make_job("sleeps")], work)
    finally:
        signal.signal(signal.SIGINT, before)

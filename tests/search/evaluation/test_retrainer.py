"""Retrainings on a real Ray, with a few made-up words in place of training, and what ends their workers."""

import io
import os
import signal
import time

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from search.cluster.nodes import connect
from search.config.load import parse
from search.evaluation.model_record import Retraining
from search.evaluation.retrainer import Retrainer
from search.evaluation.retrainings import Place
from search.evaluation.test import Progress

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
    return Retrainer(config=config, pack=packed, place=Place(str(folder)), console=console)


def make_retraining(label):
    return Retraining(
        label=label,
        architecture="cnn",
        rank=1,
        seed=0,
        trial=0,
        params={},
        train_seed=0,
        max_epochs=2,
        epochs=2,
        max_train_images=None,
        split_seed=0,
        fingerprint="",
        threshold=0.5,
    )


def make_work(end):
    """Return a retraining of two epochs that calls `end` after the first of its first attempts, given their count."""

    def work(retraining, pack, place, cpus, gpus):  # noqa: ARG001
        attempts = place.path / retraining.label
        before = len(attempts.read_text()) if attempts.exists() else 0
        attempts.write_text("x" * (before + 1))
        for epoch in (1, 2):
            yield Progress(epoch, {"train_loss": 1.0}, is_new=True)
            if epoch == 1:
                end(retraining.label, before)
        yield 0.25

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
    retrainings = [make_retraining("breaks"), make_retraining("other")]
    (tmp_path / "patient").mkdir()
    patient = build_retrainer(packed, tmp_path / "patient", max_failures=2)
    (tmp_path / "strict").mkdir()
    strict = build_retrainer(packed, tmp_path / "strict", max_failures=1)
    assert patient._run(make_work(end), retrainings) == {"breaks": 0.25, "other": 0.25}
    found = strict._run(make_work(end), retrainings)
    assert found["other"] == 0.25
    assert found["breaks"].reason.startswith("its worker broke down 2 times, last: ")
    assert (tmp_path / "patient" / "breaks").read_text() == "xxx"
    assert (tmp_path / "strict" / "breaks").read_text() == "xx"


@pytest.mark.usefixtures("two_cores")
def test_a_retraining_whose_worker_is_asked_to_end_as_its_node_shuts_down_goes_on(packed, tmp_path):
    retrainer = build_retrainer(packed, tmp_path, max_failures=0)
    assert retrainer._run(make_work(be_asked_twice), [make_retraining("breaks")]) == {"breaks": 0.25}
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
    return cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)


@pytest.mark.parametrize("in_order", [False, True])
def test_a_retraining_whose_node_vanishes_goes_on_elsewhere_and_that_does_not_count(packed, tmp_path, in_order):
    def wait_at_first(_, before):
        while before == 0:
            time.sleep(1)

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        output = Remover(cluster, in_order=in_order)
        retrainer = build_retrainer(packed, tmp_path, output, max_failures=0, address=cluster.address)
        with connect(retrainer.config):
            found = retrainer._run(make_work(wait_at_first), [make_retraining("moves")])
    finally:
        cluster.shutdown()
    assert found == {"moves": 0.25}
    assert (tmp_path / "moves").read_text() == "xx"

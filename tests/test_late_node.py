"""A node that joins while a study runs, after other code was put where it takes its own from; on a real Ray of two."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from search.record.journal import Journal
from search.record.trial import State

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).parent.parent
STUDY = """
name: tiny
results: {folder}/results
data: {{path: sample, max_train_images: 1000, val_fraction: 0.25, cache: {folder}/cache}}
search: {{architectures: [cnn], num_trials: 100, max_epochs: 100, scheduler: none, max_failures: 0}}
space: {{cnn: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}, batch_size: 32}}}}
evaluation: {{seeds: 1}}
tracking: {{mode: 'off'}}
cluster: {{max_nodes: 2}}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout of its own, from which everything here runs."""
    folder = tmp_path / "project"
    for package in ("search", "trainables"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "study.yaml").write_text(STUDY.format(folder=tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def cluster():
    """A head with one core."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.fixture
def start(project, cluster, spawn):
    """Start a search there; what it prints is in output.txt."""

    def start(*more):
        command = [sys.executable, "-u", "-m", "search.run", "study.yaml", "--plain", *more]
        with (project / "output.txt").open("w") as output:
            return spawn(
                [*command, "--set", f"cluster.address={cluster.address}"],
                cwd=project,
                env={**os.environ, "CI": "true"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    return start


def wait_for(project, process, text):
    while text not in (said := (project / "output.txt").read_text()):
        assert process.poll() is None, said
        time.sleep(0.1)


def test_a_node_that_joins_with_other_code_ends_the_search_and_mended_it_continues(project, cluster, start):
    search = start()
    wait_for(project, search, "trial 0 cnn epoch 1/")
    code = project / "search" / "cluster" / "job.py"
    before = code.read_text()
    code.write_text(f"{before}# another version\n")
    cluster.add_node(wait=False, num_cpus=1)
    assert search.wait() == 1, (project / "output.txt").read_text()
    last = (project / "output.txt").read_text().splitlines()[-1]
    assert last.startswith("error: node ")
    assert " has code " in last
    assert last.endswith("install the same on both; the same command with --resume continues from here")

    trials = Journal.read(project.parent / "results" / "tiny" / "study.journal", "tiny").load()
    assert len(trials) >= 2
    assert State.FAIL not in {trial.state for trial in trials}, "it counts against no trial"
    code.write_text(before)
    resumed = start("--resume")
    wait_for(project, resumed, "continues at epoch")
    wait_for(project, resumed, "trial 1 cnn epoch 1/")

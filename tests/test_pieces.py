"""A study that is interrupted in its search and in its evaluation ends as one that never was."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search.record.journal import Journal
from search.record.manifest import load_manifest

ROOT = Path(__file__).parent.parent
STUDY = """
name: tiny
data: {{path: sample, cache: {cache}, max_train_images: 400, val_fraction: 0.25}}
search:
  architectures: [cnn]
  num_trials: 3
  max_epochs: 4
  max_concurrent: 1
  seed: 0
  spare_first: true
  first: [{recipe}]
space: {{shared: {{learning_rate: {{low: 3e-4, high: 1e-2, log: true}}, batch_size: {{choice: [16, 128]}}}}}}
cluster: {{cpus: 2}}
evaluation:
  seeds: {{cnn: 2, paper_cnn: 1}}
  baselines: true
  max_train_images: 600
  temperature: validation
  perturbations: [flip, grey]
tracking: {{mode: "off"}}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "tiny.yaml"
    recipe = ROOT / "configs" / "recipes" / "paper_cnn.yaml"
    path.write_text(STUDY.format(cache=tmp_path / "cache", recipe=recipe))
    return path


@pytest.fixture
def run(study, spawn):
    """Run a piece and interrupt or kill it at the first line with this pattern; return its exit code and lines."""

    def run(results, *more, until=None, sign=signal.SIGINT):
        settings = (f"results={results}", *more)
        command = [
            sys.executable,
            "-m",
            "search.run",
            study,
            "--resume",
            "--plain",
            *(f"--set={each}" for each in settings),
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        lines = []
        searcher = spawn(command, cwd=ROOT, **pipes)
        for line in searcher.stdout:
            lines.append(line)
            if until is not None and re.search(until, line):
                until = None
                if sign is signal.SIGINT:
                    searcher.send_signal(sign)
                else:
                    os.killpg(searcher.pid, sign)
        return searcher.wait(), lines

    return run


def read(results):
    """Return what must be the same: trials with their curves, what was chosen, what was tested, weights and logits."""
    trials = Journal.read(results / "tiny" / "study.journal", "tiny").load()
    models = results / "tiny" / "models"
    records = {path.name: json.loads(path.read_text())["tested"] for path in sorted(models.glob("*.json"))}
    tested = {name: {key: value for key, value in each.items() if key != "cost"} for name, each in records.items()}
    files = {path.name: path.read_bytes() for path in models.rglob("*.safetensors")}
    [entry] = load_manifest(results / "tiny")["evaluations"]
    return [(trial.params, trial.list_values(), trial.state) for trial in trials], entry["winners"], tested, files


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.ray
def test_a_study_in_pieces_equals_a_straight_one(run, tmp_path):
    """In pieces two retrainings run side by side, in the straight study one after the other."""
    moments = ["trial 0 cnn epoch 2/4", "trial 1 cnn epoch 1/4", "cnn-threshold: epoch 2/4", "cnn-seed1: epoch 2/4"]
    for moment in moments:
        code, lines = run(tmp_path / "pieces", until=moment)
        assert code == 130, "".join(lines)
        assert "continues from here" in lines[-1]
    for moment in ("cnn-seed1: epoch 4/4", r"cnn-rank\d-seed0: epoch 4/4", "Scoring the models on further images"):
        if moment.startswith("Scoring"):  # as after a kill between two further tests
            next((tmp_path / "pieces/tiny/models/further").glob("cnn-seed*.grey.safetensors")).unlink()
        code, lines = run(tmp_path / "pieces", until=moment, sign=signal.SIGKILL)
        assert code == -signal.SIGKILL, "".join(lines)
    code, lines = run(tmp_path / "pieces")
    assert code == 0, "".join(lines)
    assert not [line for line in lines if "epoch" in line and "/4" in line]
    assert run(tmp_path / "straight", "cluster.cpus=1")[0] == 0
    assert read(tmp_path / "pieces") == read(tmp_path / "straight")
    assert not list(tmp_path.glob("*/tiny/models/*.ckpt"))

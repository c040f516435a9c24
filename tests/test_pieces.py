"""A study that is interrupted in its search and in its evaluation ends as one that never was."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search.record.journal import Journal

ROOT = Path(__file__).parent.parent
STUDY = """
name: tiny
data: {{path: sample, cache: {cache}, max_train_images: 400, val_fraction: 0.25}}
search:
  architectures: [cnn]
  num_trials: 3
  max_epochs: 4
  seed: 0
  spare_first: true
  first: [{recipe}]
space: {{shared: {{learning_rate: {{low: 3e-4, high: 1e-2, log: true}}, batch_size: {{choice: [16, 128]}}}}}}
cluster: {{cpus: 1}}
evaluation: {{seeds: 2, baselines: true}}
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
    """Run a piece and interrupt it at the first line with these words; return its exit code and lines."""

    def run(results, *, until=None):
        command = [sys.executable, "-m", "search.run", study, "--resume", "--set", f"results={results}", "--plain"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        lines = []
        searcher = spawn(command, cwd=ROOT, **pipes)
        for line in searcher.stdout:
            lines.append(line)
            if until is not None and until in line:
                searcher.send_signal(signal.SIGINT)
                until = None
        return searcher.wait(), lines

    return run


def read(results):
    """Return what must be the same: trials with their curves, what was tested, and the weights."""
    trials = Journal.read(results / "tiny" / "study.journal", "tiny").load()
    models = results / "tiny" / "models"
    tested = {path.name: json.loads(path.read_text())["tested"]["metrics"] for path in sorted(models.glob("*.json"))}
    weights = {path.name: path.read_bytes() for path in models.glob("*seed?.safetensors")}
    return [(trial.params, trial.list_values(), trial.state) for trial in trials], tested, weights


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_a_study_in_pieces_equals_a_straight_one(run, tmp_path):
    moments = ["trial 0 cnn epoch 2/4", "trial 1 cnn epoch 1/4", "cnn-seed0: epoch 1/", "cnn-seed1: epoch 1/"]
    for moment in moments:
        code, lines = run(tmp_path / "pieces", until=moment)
        assert code == 130, "".join(lines)
        assert "continues from here" in lines[-1]
    code, lines = run(tmp_path / "pieces")
    assert code == 0, "".join(lines)
    assert run(tmp_path / "straight")[0] == 0
    assert read(tmp_path / "pieces") == read(tmp_path / "straight")

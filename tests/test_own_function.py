"""A training function of the user, killed with all of its processes: the same study as one that was never killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import kill_tree
from search.record.journal import Journal

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).parent.parent
SCRIPT = '''
import random
import sys
import time

import numpy as np
import torch
from sklearn.linear_model import SGDClassifier

from search import Choice, Range, search


class Walker:
    """Has no state_dict."""

    def __init__(self):
        self.place = 0.0


def wander(run, lr: float = 0.1, width: int = 4, kind: str = "near"):
    model = torch.nn.Linear(width, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    linear, walker, generator = SGDClassifier(), Walker(), np.random.default_rng(run.seed)
    for epoch in run.epochs(model, optimizer, linear, walker=walker, generator=generator):
        time.sleep(0.2)
        loss = (model(torch.rand(16, width)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images = np.random.rand(40, width)
        linear.partial_fit(images, images.sum(1) > width / 2, classes=[False, True])
        walker.place += random.random() + generator.random()
        if kind == "far" and epoch == 5:
            raise ValueError("too far")
        yield {"accuracy": 1 - loss / 4 + linear.coef_.sum() / 1e6, "place": walker.place, "loss": loss}


if __name__ == "__main__":
    search(
        wander,
        {"lr": Range(1e-3, 0.3, log=True), "width": Range(2, 6), "kind": Choice(["near", "far"])},
        name="wandering",
        num_trials=5,
        max_epochs=6,
        num_startup_trials=2,
        max_concurrent=1,
        tracking={"mode": "off"},
    )
'''


@pytest.fixture
def start(spawn):
    """Start the script in a folder."""

    def start(folder):
        folder.mkdir(exist_ok=True)
        (folder / "wandering.py").write_text(SCRIPT)
        return spawn(
            [sys.executable, "-u", "wandering.py"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CI": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def kill_at(process, words):
    """Kill a script and all that it started when a line of its output has the words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return kill_tree(process)
    raise AssertionError("".join(lines))


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def summarize(folder):
    journal = Journal.read(folder / "results/wandering/study.journal", "wandering")
    rows = []
    for trial in journal.load():
        epochs = [{name: value for name, value in metrics.items() if name != "seconds"} for metrics in trial.epochs]
        rows.append((trial.number, trial.architecture, trial.params, trial.state, trial.reason, epochs))
    return rows


def test_a_function_killed_twice_gives_the_same_study_as_one_that_was_not_killed(tmp_path, start):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(straight))
    kill_at(start(killed), "trial 0 wandering:wander epoch 2/6")
    kill_at(start(killed), "trial 2 wandering:wander epoch 1/6")
    finish(start(killed))
    found = summarize(straight)
    assert summarize(killed) == found
    assert len(found) == 5
    assert {state for _, _, _, state, _, _ in found} >= {"COMPLETE"}
    assert "trial 4 wander" not in finish(start(killed))

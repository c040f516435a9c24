"""The example of a sampler: exact when killed, and a whole study with the command of its first lines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.config.load import load
from search.record.journal import Journal
from search.samplers.own import check_sampler
from search.study import Study

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/own_sampler"


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return load(EXAMPLE / "study.yaml", ["search.num_trials=30", "search.max_epochs=1", "search.grace_epochs=1"])


def search(config, folder, limit=None):
    """Search a closed form until the end, or until a number of trials, as if killed there."""
    folder.mkdir(exist_ok=True)
    study = Study(config, Journal(folder / "study.journal", config.name, note=print))
    for _ in range(limit or 30):
        if (trial := study.ask()) is None:
            break
        accuracy = 0.9 - abs(trial.params["learning_rate"] - 0.003) - (trial.params["filters"] == 4) / 10
        study.report(trial.number, {"epoch": 1, "accuracy": accuracy}, "cpu")
    return study


def test_the_sampler_climbs_and_is_exact_when_it_is_killed(config, tmp_path):
    check_sampler(config)
    straight = search(config, tmp_path / "straight")
    while not (killed := search(config, tmp_path / "killed", 7)).is_over:
        pass
    assert [trial.params for trial in killed.trials] == [trial.params for trial in straight.trials]
    late = [trial.params["filters"] for trial in straight.trials[10:]]
    assert late.count(8) > 2 * late.count(4)


def test_the_example_has_at_most_60_lines():
    assert sum(len(path.read_text().splitlines()) for path in EXAMPLE.iterdir() if path.is_file()) <= 60


@pytest.mark.slow
@pytest.mark.ray
def test_the_command_of_the_example_searches_and_reports(spawn, tmp_path):
    command = [sys.executable, "-m", "search.run", str(EXAMPLE / "study.yaml"), "--set", f"data.cache={tmp_path}/cache"]
    process = spawn(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    told = json.loads(
        subprocess.run(
            [sys.executable, "-m", "search", "inspect", "results/own-sampler", "--json"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    assert told["finished"]
    assert len(told["trials"]) == 6
    assert (tmp_path / "results/own-sampler/report/report.html").exists()

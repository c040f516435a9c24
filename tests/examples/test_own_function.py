"""The example of a training function: it runs as its page says, and again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/own_function/digits.py"

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def call(spawn, tmp_path):
    """Run Python and return what it prints: call(*arguments)."""

    def call(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[2]), "WANDB_MODE": "offline", "CI": "true"}
        process = spawn(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    return call


def test_the_digits_are_searched_and_the_same_command_again_trains_nothing(call, tmp_path):
    first = call(EXAMPLE)
    assert "best: trial " in first
    assert " epoch 1/9: " in first
    again = call(EXAMPLE)
    assert again.splitlines()[-1] == first.splitlines()[-1]
    assert " epoch 1/9: " not in again
    study = json.loads(call("-m", "search", "inspect", "results/digits", "--json"))
    assert study["finished"]
    assert study["states"].keys() <= {"COMPLETE", "PRUNED"}
    assert len(study["trials"]) == 12
    assert set(study["trials"][0]["params"]) == {"activation", "hidden", "lr"}
    page = (tmp_path / "results/digits/report/report.html").read_text()
    assert "Best trials" in page
    assert "Parameter importance" in page


def test_the_example_has_at_most_60_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 60

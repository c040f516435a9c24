"""The example of a data set of one's own: searched, reported, predicted and reproduced with its classes and size."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_data"
pytestmark = [pytest.mark.ray]
SMALL = [
    "search.num_trials=2",
    "search.max_epochs=1",
    "data.max_train_images=60",
    "tracking.mode=off",
    "cluster.cpus=2",
]


def run_command(cwd, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1]), "CI": "true"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the example was run, smaller."""
    folder = tmp_path_factory.mktemp("own")
    run_command(folder, EXAMPLE / "make_data.py", "shapes")
    settings = [part for setting in [*SMALL, "data.cache=cache"] for part in ("--set", setting)]
    run_command(folder, "-m", "search.run", EXAMPLE / "study.yaml", *settings, "--plain")
    return folder


def test_the_example_is_short():
    assert sum(len(path.read_text().splitlines()) for path in EXAMPLE.glob("*.*")) <= 60


def test_record_and_report_say_the_data_sets_classes_and_size(folder):
    study = folder / "results/own_data"
    data = yaml.safe_load((study / "study.yaml").read_text())["data"]
    assert (data["classes"], data["size"], data["resized"]) == (["disc", "square"], 64, 0)
    known = json.loads((study / "models/cnn-seed0.json").read_text())["preprocessing"]
    assert (known["classes"], known["size"], known["positive"]) == (["disc", "square"], [64, 64], "square")
    page, table = ((study / "report" / name).read_text() for name in ("report.html", "comparison.md"))
    for words in ("square or disc", "called disc", "called square", "64\u00d764", "P(square)"):
        assert words in page
    assert "Precision of disc" in table
    assert "square is the positive class" in table
    assert "chosen once by a hash of each file" in table
    card = (study / "models/cnn-seed0.md").read_text()
    for content in (table, card):
        assert not re.search(r"\b(FAKE|REAL|CIFAKE|32x32)\b", content)
    assert not any(
        word in page for word in ("called FAKE", "called REAL", "P(REAL)", "CIFAKE", "(paper)", "paper\u2019s")
    )


def test_predict_names_the_classes_of_the_model_as_the_test_called_the_same_images(folder):
    model = folder / "results/own_data/models/cnn-seed0.safetensors"
    document = json.loads(run_command(folder, "-m", "search", "predict", model, "shapes", "--json"))
    assert document["classes"] == ["disc", "square"]
    assert {image["label"] for image in document["images"]} <= {"disc", "square"}
    assert not any("resized" in note for note in document["limits"])
    tested = json.loads(model.with_suffix(".json").read_text())["tested"]
    assert sum(map(sum, tested["confusion"])) < len(document["images"]) == 400


def test_the_model_is_reproduced_to_the_bit(folder):
    told = run_command(folder, "-m", "search", "reproduce", "results/own_data", "--cache", folder / "cache")
    assert "the same, weights and metrics, bit for bit" in told

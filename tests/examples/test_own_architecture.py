"""The example of an architecture of one's own, through all commands."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_architecture"
pytestmark = [pytest.mark.slow, pytest.mark.ray]
SMALL = ["search.num_trials=4", "search.max_epochs=2", "evaluation.seeds=1", "tracking.mode=off"]


def run_command(module, *arguments, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1]), "CI": "true"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    settings = [part for setting in [*SMALL, f"results={results}"] for part in ("--set", setting)]
    done = run_command("search.run", str(EXAMPLE / "study.yaml"), *settings, "--plain")
    assert done.returncode == 0, done.stderr
    return results / "own_architecture"


def test_the_example_is_short():
    files = [path for path in EXAMPLE.iterdir() if path.suffix in (".py", ".yaml")]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 60


def test_both_architectures_are_searched_retrained_and_tested(study):
    trials = pd.read_csv(study / "trials.csv")
    assert trials.architecture.value_counts().to_dict() == {"cnn": 2, "my_vit:Vit": 2}
    assert trials.patch.isin([4, 8]).sum() == 2
    assert {"cnn-seed0.safetensors", "Vit-seed0.safetensors"} <= {path.name for path in (study / "models").iterdir()}
    assert (study / "report" / "figures" / "Vit_confusion.png").exists()
    comparison = (study / "report" / "comparison.md").read_text()
    assert "my_vit:Vit" in comparison
    assert yaml.safe_load((study / "study.yaml").read_text())["config"]["code"] == str(EXAMPLE)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("predict", ["{model}", "{image}"]),
        ("export", ["{model}"]),
        ("reproduce", ["{study}"]),
        ("evaluate", ["{study}"]),
    ],
)
def test_the_code_of_a_stored_model_runs_only_from_a_folder_that_is_named(
    study, tmp_path, image_folder, command, arguments
):
    copy = shutil.copytree(study, tmp_path / study.name)
    trap = tmp_path / "my_vit.py"  # in the working directory, which is no consent
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    image = next(path for path in image_folder.rglob("*.*") if path.is_file())
    known = {"model": copy / "models" / "Vit-seed0.safetensors", "image": image, "study": copy}
    given = [argument.format(**known) for argument in arguments]
    refused = run_command("search", command, *given, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: the study runs code that is not of this project, my_vit:Vit")
    assert not (tmp_path / "ran").exists()
    trap.unlink()
    done = run_command("search", command, *given, "--code", str(EXAMPLE), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if command == "reproduce":
        assert done.stdout.count("bit for bit") == 2


def test_a_reader_imports_no_code(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / study.name)
    shown = run_command("search", "inspect", str(copy), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "my_vit:Vit" in shown.stdout


def test_a_study_is_resumed_with_its_config_or_its_code(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / study.name)
    known = ["--resume", "--name", copy.name, "--set", f"results={tmp_path}", "--plain"]
    refused = run_command("search.run", *known, cwd=tmp_path)
    assert (refused.returncode, "my_vit:Vit" in refused.stderr) == (2, True)
    done = run_command("search.run", *known, "--code", str(EXAMPLE), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_models_are_evaluated_and_reproduced_with_the_module_of_the_search_alone(study, tmp_path):
    hashed = {"my_vit.py": hashlib.sha256((EXAMPLE / "my_vit.py").read_bytes()).hexdigest()}
    record = json.loads((study / "models" / "Vit-seed0.json").read_text())
    assert record["code"]["own"] == hashed
    own = shutil.copytree(EXAMPLE, tmp_path / "own")
    (own / "my_vit.py").write_text((own / "my_vit.py").read_text() + "\n")
    copy = shutil.copytree(study, tmp_path / study.name)
    for command, reason in (("evaluate", "than"), ("reproduce", "restore it")):
        refused = run_command("search", command, str(copy), "--code", str(own))
        assert refused.returncode == 2
        assert "other content" in refused.stderr
        assert "my_vit.py" in refused.stderr
        assert reason in refused.stderr


def test_a_changed_module_is_another_code(study, tmp_path):
    own = shutil.copytree(EXAMPLE, tmp_path / "own")
    copy = shutil.copytree(study, tmp_path / study.name)
    (own / "my_vit.py").write_text((own / "my_vit.py").read_text() + "\n")
    settings = [part for setting in [*SMALL, f"results={tmp_path}"] for part in ("--set", setting)]
    refused = run_command("search.run", str(own / "study.yaml"), *settings, "--resume", cwd=tmp_path)
    assert refused.returncode == 2
    assert "code" in refused.stderr
    assert copy.exists()

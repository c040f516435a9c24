"""The command line: what a user sees when something is wrong, and what --dry-run says."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from search.config.load import parse
from search.record.folder import create_folder
from search.run import _read_stored, main
from trainables.errors import InputError

APP = typer.Typer()
APP.command()(main)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that calls the command line in an empty folder and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(
        f"name: mine\ndata: {{path: images, cache: {tmp_path}/cache}}\ntracking: {{mode: 'off'}}\n"
    )

    def call(*arguments):
        result = CliRunner().invoke(APP, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "cannot read nowhere.yaml: no such file or directory"),
        (["study.yaml", "--set", "search.num_trails=3"], "search.num_trails: unknown key"),
        (["study.yaml", "--set", "search.num_trials=many"], "search.num_trials = 'many'"),
        (["study.yaml", "--set", "search.num_trials"], "expected PATH=VALUE"),
        (["study.yaml", "--name", "a/b"], "name = 'a/b'"),
        (["study.yaml", "--set", "search.num_trials=1"], "leaves resnet50 without a trial"),
        (["--resume", "--name", "typo"], "there is no study in results/typo to resume"),
        (["--resume", "--set", "name=[1]"], "name and results must be text"),
        (["study.yaml", "--set", "extends=study.yaml"], "extends"),
        (["study.yaml", "--set", "space.resnet50.input_size={low: 32, high: 128}"], "expected a value or a choice"),
        (["study.yaml", "--set", "space.cnn.kernel_size={low: 3, high: 5}"], "kernel_size = 4"),
        (
            ["study.yaml", "--set", "space.cnn.filters={low: 8, high: 16, step: 0.5}"],
            "filters.step = 0.5: expected int",
        ),
        (["study.yaml", "--set", "space.cnn.num_blocks={low: 2, high: 6}"], "has a corner that cannot be built"),
        (["study.yaml"], "images"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, tmp_path, arguments, message):
    before = sorted(tmp_path.rglob("*"))
    code, _, stderr = run(*arguments)
    assert code == 2
    assert stderr.startswith("error: ")
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_results_folder_that_exists_is_not_touched_without_resume(run, tmp_path):
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text("mine")
    code, _, stderr = run("study.yaml")
    assert code == 2
    assert "results/mine exists: --resume continues it, --name NAME starts another study" in stderr
    assert (folder / "study.yaml").read_text() == "mine"


def test_weights_that_cannot_be_loaded_are_one_error_before_the_search(run, tmp_path, image_folder):
    settings = [f"data.path={image_folder}", f"space.resnet50.weights={tmp_path}/nowhere.pt"]
    code, _, stderr = run("study.yaml", *[part for value in settings for part in ("--set", value)])
    assert code == 2
    assert "nowhere.pt" in stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("image_folder")
@pytest.mark.parametrize("path", ["nowhere", "images"])
def test_a_source_that_cannot_be_used_is_one_error_before_the_search(run, tmp_path, path):
    code, _, stderr = run("study.yaml", "--set", f"evaluation.also={{other: {path}}}")
    assert (code, len(stderr.strip().splitlines())) == (2, 1)
    expected = "nowhere does not exist" if path == "nowhere" else "images shares 10 of its images with the test split"
    assert stderr.startswith(f"error: evaluation.also.other: {expected}")
    assert not (tmp_path / "results").exists()


def test_a_study_whose_folder_was_moved_continues_where_it_is_now(tmp_path, monkeypatch, packed):
    monkeypatch.chdir(tmp_path)
    create_folder(parse({"name": "mine", "results": str(tmp_path / "large disk")}), packed)
    (tmp_path / "large disk").rename(tmp_path / "results")
    assert _read_stored(['name="mine"']).directory == Path("results/mine")


def test_a_file_that_a_resumed_study_names_is_read_from_the_working_directory(tmp_path, monkeypatch, packed):
    monkeypatch.chdir(tmp_path)
    create_folder(parse({"name": "mine"}), packed)
    Path("published.yaml").write_text("notes: [small]\n")
    study = _read_stored(["name=mine", "evaluation.published=published.yaml"])
    assert (study.evaluation.published, study.published.notes) == ("published.yaml", ("small",))
    with pytest.raises(InputError, match=r"cannot read nowhere\.yaml"):
        _read_stored(["name=mine", "evaluation.published=nowhere.yaml"])


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run, tmp_path):
    code, stdout, _ = run(
        "study.yaml",
        "--dry-run",
        "--set", "search.max_epochs=9",
        "--set", "search.num_trials=18",
        "--set", "search.grace_epochs=1",
        "--set", "space.cnn.filters={low: 8, high: 64, log: true}",
        "--set", "evaluation.also={phones: phones.zip}",
    )  # fmt: skip
    assert code == 0
    assert "num_trials: 18" in stdout
    assert "8 to 64, log" in stdout
    assert "1 CPUs and 0 GPUs per trial" in stdout
    assert "a trial may be stopped after epoch 1, 3 of 9" in stdout
    assert "about 42 if one trial in 3 survives each rung, at most 162, in 18 trials" in stdout
    assert "The budget holds about 5 full trainings" in stdout
    assert "Evaluation: at most 10 retrainings" in stdout
    assert ", each scored on images of phones" in stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("library", ["torch", "torchvision", "sklearn", "matplotlib", "plotly", "wandb", "ray.tune"])
def test_no_trial_waits_for_the_driver_to_import(library):
    program = f"import sys, search.run; sys.exit({library!r} in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0

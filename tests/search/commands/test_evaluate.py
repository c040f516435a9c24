"""The evaluation, as a step and as a command, on a study of two made-up trials and real Ray."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import torch
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from search.cluster.nodes import connect
from search.commands.evaluate import conclude, main
from search.config.load import dump, parse
from search.config.space import build_distributions, list_specs
from search.config.yaml import read_yaml
from search.evaluation.model_file import load_model, load_record
from search.record.folder import OpenStudy, create_folder
from search.record.journal import Journal
from search.record.manifest import load_manifest, save_manifest
from search.record.trial import State
from trainables.errors import InputError
from trainables.pack import pack

APP = typer.Typer()
APP.command()(main)


def build_config(results, **changes):
    return parse(
        {
            "name": "tiny",
            "results": str(results),
            "search": {"max_epochs": 2, "architectures": ["cnn"], "num_trials": 2},
            "space": {"cnn": {"filters": {"low": 4, "high": 6}}, "shared": {"batch_size": 8}},
            "evaluation": {"seeds": 1},
            "cluster": {"cpus": 1},
            **changes,
        }
    )


def add_trial(journal, config, architecture, values, *, filters=4):
    distributions = build_distributions(list_specs(config.space, architecture), architecture)
    trial = journal.add_trial(architecture, {"filters": filters, "batch_size": 8}, distributions)
    for epoch, value in enumerate(values, start=1):
        known = {"train_loss": 0.5, "train_accuracy": value, "loss": 0.5, "seconds": 1.0, "images_per_second": 1.0}
        journal.add_epoch(trial, {"epoch": epoch, "accuracy": value, **known}, device="cpu", elapsed_s=1.0)
    journal.end_trial(trial, State.COMPLETE if values else State.FAIL, None, {})
    return trial


@pytest.fixture
def study(tmp_path, image_folder):
    """The folder of a searched study."""
    data = {"path": str(image_folder), "cache": str(tmp_path / "cache"), "val_fraction": 0.25}
    config = build_config(tmp_path / "results", data=data)
    create_folder(config, pack(image_folder, tmp_path / "cache"))
    journal = Journal(config.directory / "study.journal", "tiny", note=print)
    add_trial(journal, config, "cnn", [0.5, 0.7])
    add_trial(journal, config, "cnn", [0.8, 0.6], filters=5)
    return config.directory


def call(*arguments):
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def list_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.ray
def test_the_command_writes_its_choices_opens_once_and_returns_what_is_stored(study):
    code, stdout, stderr = call(study)
    assert code == 0, stderr
    assert "cnn-seed0: epoch 1/1" in stdout
    assert "cnn, 1 seed" in stdout
    (entry,) = load_manifest(study)["evaluations"]
    assert entry["winners"] == [
        {
            **{
                "architecture": "cnn",
                "rank": 1,
                "trial": 1,
                "value": 0.8,
                "epochs": 1,
                "threshold": 0.5,
                "temperature": 1.0,
            },
            **{"recipe": None, "front": False, "curve": None, "failure": None},
        }
    ]
    assert entry["opened"]["time"] >= entry["chosen"]["time"]
    assert (study / "report" / "comparison.md").exists()
    assert not (study / "study.lock").exists()

    before, record = list_times(study / "models"), (study / "study.yaml").read_bytes()
    shutil.rmtree(study / "report")
    (study / "models" / "cnn-seed0.ckpt").write_bytes(b"left by a kill between the model and this file's end")
    code, stdout, _ = call(study)
    assert (code, "nothing to train" in stdout) == (0, True)
    assert (study / "report" / "comparison.md").exists()
    assert list_times(study / "models") == before
    assert (study / "study.yaml").read_bytes() == record
    assert call(study, "--report")[0] == 0


@pytest.mark.ray
def test_other_choices_are_a_second_opening_that_the_report_marks_and_keep_what_fits(study):
    assert call(study)[0] == 0
    before = list_times(study / "models")
    code, _, stderr = call(study, "--set", "evaluation.seeds=2")
    assert code == 0, stderr
    first, second = load_manifest(study)["evaluations"]
    assert (first["seeds"], second["seeds"]) == (1, 2)
    assert first["opened"]
    assert second["opened"]
    assert load_manifest(study)["config"]["evaluation"]["seeds"] == 2
    assert "opened before with other choices" in (study / "report" / "comparison.md").read_text()
    after = list_times(study / "models")
    assert {name: after[name] for name in before} == before
    assert "cnn-seed1.safetensors" in after


@pytest.mark.ray
def test_published_results_are_read_from_the_file_that_a_setting_names(study, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "known.yaml").write_text("models: [{model: Theirs, protocol: sealed, metrics: {f1: 0.5}}]\n")
    code, _, stderr = call(study, "--set", "evaluation.published=unknown.yaml")
    assert (code, "cannot read unknown.yaml: no such file" in stderr) == (2, True)
    assert call(study, "--set", "evaluation.published=known.yaml")[0] == 0
    (tmp_path / "here" / "known.yaml").unlink()
    assert call(study, "--report")[0] == 0
    assert "Theirs" in (study / "report" / "comparison.md").read_text()
    assert call(study, "--set", "evaluation.published=null")[0] == 0
    assert "Theirs" not in (study / "report" / "comparison.md").read_text()


@pytest.mark.ray
def test_an_opening_that_was_removed_is_marked_and_one_that_a_kill_cut_short_is_completed(study):
    assert call(study)[0] == 0
    record = load_manifest(study)
    content = (study / "study.yaml").read_bytes()
    assert "The test split was opened once" in (study / "report" / "comparison.md").read_text()

    cut_short = record["evaluations"][0] | {"opened": None}
    save_manifest(study, record | {"evaluations": [cut_short]})  # the kill came before the second writing
    assert call(study, "--report")[0] == 0
    assert "removed" not in (study / "report" / "comparison.md").read_text()
    assert call(study)[0] == 0
    assert (study / "study.yaml").read_bytes() == content

    save_manifest(study, record | {"evaluations": []})
    code, _, stderr = call(study, "--report")
    assert (code, "is in the journal and not in study.yaml: it was removed there" in stderr) == (2, True)
    assert call(study)[0] == 0
    (entry,) = load_manifest(study)["evaluations"]
    assert entry["opened"]["previous"] == record["evaluations"][0]["opened"]["hash"]
    report = (study / "report" / "comparison.md").read_text()
    assert "The test split was opened 2 times" in report
    assert "is in the journal and not in study.yaml: it was removed there" in report


@pytest.mark.ray
def test_a_threshold_from_validation_is_written_down_before_the_opening(study):
    code, stdout, stderr = call(study, "--set", "evaluation.threshold=validation")
    assert code == 0, stderr
    assert "at the last epoch, best threshold 0." in stdout
    (entry,) = load_manifest(study)["evaluations"]
    threshold = entry["winners"][0]["threshold"]
    assert entry["threshold"] == "validation"
    assert f"training on train alone: cnn {threshold:.4f}" in (study / "report" / "comparison.md").read_text()
    assert not list((study / "models").glob("*.ckpt*"))
    assert "nothing to train" in call(study, "--set", "evaluation.threshold=validation")[1]


@pytest.mark.ray
@pytest.mark.ray
def test_a_temperature_from_validation_is_written_down_before_the_opening_and_stored_with_the_model(study):
    settings = "--set", "evaluation.temperature=validation"
    code, stdout, stderr = call(study, *settings)
    assert code == 0, stderr
    (entry,) = load_manifest(study)["evaluations"]
    temperature = entry["winners"][0]["temperature"]
    assert (entry["temperature"], entry["winners"][0]["threshold"]) == ("validation", 0.5)
    assert 0.1 <= temperature <= 10.0
    assert f", temperature {temperature:.4f}" in stdout
    record = load_record(study / "models" / "cnn-seed0.json")
    assert record.retraining["temperature"] == record.tested["temperature"] == temperature
    report = (study / "report" / "comparison.md").read_text()
    assert "Calibration error without the temperature" in report
    assert f"fitted on validation by a training on train alone: cnn {temperature:.4f}" in report
    assert not list((study / "models").glob("*.ckpt*"))
    assert "nothing to train" in call(study, *settings)[1]


@pytest.mark.ray
def test_retraining_on_all_images_takes_the_whole_schedule_and_tells_whether_it_is_enough(tmp_path, image_folder):
    data = {"path": str(image_folder), "cache": str(tmp_path / "cache"), "val_fraction": 0.25, "max_train_images": 16}
    config = build_config(tmp_path / "results", data=data, evaluation={"seeds": 1, "max_train_images": "all"})
    create_folder(config, pack(image_folder, tmp_path / "cache"))
    journal = Journal(config.directory / "study.journal", "tiny", note=print)
    add_trial(journal, config, "cnn", [0.8, 0.6])
    add_trial(journal, config, "cnn", [0.5, 0.7], filters=5)
    code, _, stderr = call(config.directory)
    assert code == 0, stderr
    (entry,) = load_manifest(config.directory)["evaluations"]
    [winner] = entry["winners"]
    assert (entry["max_train_images"], winner["epochs"], len(winner["curve"])) == ("all", 2, 2)
    told = (config.directory / "report" / "comparison.md").read_text()
    assert f"{winner['curve'][0]:.4f} at epoch 1, {winner['curve'][1]:.4f} at the last" in told
    assert "with all images and 1 seed" in told
    assert "nothing to train" in call(config.directory)[1]


@pytest.mark.ray
def test_a_perturbation_that_is_added_trains_nothing_and_is_another_opening(study):
    assert call(study, "--set", "evaluation.threshold=validation")[0] == 0
    before = list_times(study / "models")
    chosen = ("--set", "evaluation.threshold=validation", "--set", "evaluation.perturbations=[jpeg50, flip]")
    code, stdout, stderr = call(study, *chosen)
    assert code == 0, stderr
    assert "Scoring the models on further images, without training" in stdout
    assert "epoch 1" not in stdout
    first, second = load_manifest(study)["evaluations"]
    assert (first["perturbations"], second["perturbations"]) == ([], ["jpeg50", "flip"])
    assert first["winners"] == second["winners"]
    assert second["opened"]["previous"] == first["opened"]["hash"]
    after = list_times(study / "models")
    assert {name: after[name] for name in before} == before
    files = list_times(study / "models" / "further")
    assert set(files) == {f"cnn-seed0.perturbation.{name}.safetensors" for name in ("jpeg50", "flip")}
    assert "nothing to train" in call(study, *chosen)[1]
    assert list_times(study / "models" / "further") == files

    (study / "models" / "further" / "cnn-seed0.perturbation.flip.safetensors").unlink()
    assert call(study, "--report")[0] == 0
    assert "cnn-seed0 was not scored on flip." in (study / "report" / "comparison.md").read_text()
    (study / "models" / "further" / "cnn-seed0.perturbation.flip.safetensors").write_bytes(b"")
    code, _, stderr = call(study, "--report")
    assert (code, "flip.safetensors is damaged or not a file of logits: evaluate the" in stderr) == (2, True)
    assert call(study, *chosen)[0] == 0
    again = list_times(study / "models" / "further")
    assert [name for name in files if again[name] != files[name]] == ["cnn-seed0.perturbation.flip.safetensors"]
    assert len(load_manifest(study)["evaluations"]) == 2
    assert call(study, "--report")[0] == 0


@pytest.mark.ray
@pytest.mark.slow
def test_an_evaluation_killed_between_two_perturbations_continues_to_the_same_files(study, spawn):
    assert call(study)[0] == 0
    straight = shutil.copytree(study, study.parents[1] / "straight" / "tiny")
    chosen = ("--set", "evaluation.perturbations=all")
    assert call(straight, *chosen)[0] == 0
    further = study / "models" / "further"
    process = spawn([sys.executable, "-m", "search", "evaluate", study, *chosen], stdout=subprocess.DEVNULL)
    while not further.exists() or not list(further.glob("*.safetensors")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = {path.name: path.read_bytes() for path in further.glob("*.safetensors")}
    code, stdout, stderr = call(study, *chosen)
    assert code == 0, stderr
    assert "epoch 1" not in stdout
    expected = {path.name: path.read_bytes() for path in (straight / "models" / "further").iterdir()}
    assert {path.name: path.read_bytes() for path in further.iterdir()} == expected
    assert 0 < len(left) <= len(expected) == 20
    assert left.items() <= expected.items()
    names = "robustness.csv", "comparison.csv"
    assert [(study / "report" / name).read_bytes() for name in names] == [
        (straight / "report" / name).read_bytes() for name in names
    ]
    assert len(load_manifest(study)["evaluations"]) == 2


@pytest.fixture
def sources(tmp_path, image_folder, write_noise):
    """Settings that name two sources: one of both classes with a copy of a training image, one of FAKE alone."""
    for number in range(6):
        write_noise(tmp_path / "other" / ("FAKE", "REAL")[number % 2] / f"{number}.png", 7000 + number)
        write_noise(tmp_path / "fakes" / "FAKE" / f"{number}.png", 8000 + number)
    shutil.copy(image_folder / "train/REAL/5.png", tmp_path / "other/REAL/copy.png")
    return ("--set", f"evaluation.also={{other: {tmp_path / 'other'}, fakes: {tmp_path / 'fakes'}}}")


@pytest.mark.ray
def test_sources_that_are_added_train_nothing_and_are_scored_without_what_training_has(study, sources, tmp_path):
    assert call(study)[0] == 0
    before = list_times(study / "models")
    code, stdout, stderr = call(study, *sources)
    assert code == 0, stderr
    assert "cnn-seed0: epoch" not in stdout
    first, second = load_manifest(study)["evaluations"]
    assert first["sources"] == []
    assert [(each["name"], each["counts"], each["copies"], each["alike"]) for each in second["sources"]] == [
        ("other", [3, 3], 1, 0),
        ("fakes", [6, 0], 0, 0),
    ]
    assert second["opened"]["previous"] == first["opened"]["hash"]
    assert {name: list_times(study / "models")[name] for name in before} == before

    files = [study / f"models/further/cnn-seed0.source.{name}.safetensors" for name in ("other", "fakes")]
    model = load_model(study / "models/cnn-seed0.safetensors")
    pixels = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "fakes/FAKE").iterdir())]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    found = safetensors.numpy.load(files[1].read_bytes())
    assert found["labels"].tolist() == [0] * 6
    np.testing.assert_allclose(found["logits"], model.model(images).detach().numpy().ravel(), rtol=1e-4, atol=1e-6)
    assert safetensors.numpy.load(files[0].read_bytes())["labels"].tolist() == [0] * 3 + [1] * 3

    rows = (study / "report/sources.csv").read_text().splitlines()
    assert [row.split(",")[:6] for row in rows[1:]] == [
        ["cnn", "other", "3", "3", "1", "0"],
        ["cnn", "fakes", "6", "0", "0", "0"],
    ]
    for name in ("comparison.md", "report.html"):
        assert "On other sources" in (study / "report" / name).read_text()
        assert "Left out: 1 images with the pixels of a training image" in (study / "report" / name).read_text()

    (tmp_path / "other").rename(tmp_path / "moved")
    moved = sources[1].replace(str(tmp_path / "other"), str(tmp_path / "moved"))
    assert "nothing to train" in call(study, "--set", moved)[1]
    shutil.rmtree(tmp_path / "moved")
    assert call(study, "--report")[0] == 0
    assert len(load_manifest(study)["evaluations"]) == 2
    assert (study / "report/sources.csv").read_text().splitlines() == rows
    assert call(study, "--set", "evaluation.also=null")[0] == 0
    assert not (study / "report/sources.csv").exists()


def test_a_source_that_shares_an_image_with_the_test_split_is_refused_before_anything_is_opened(study, image_folder):
    code, _, stderr = call(study, "--set", f"evaluation.also={{same: {image_folder}}}")
    assert (code, len(stderr.strip().splitlines())) == (2, 1)
    assert (
        f"evaluation.also.same: {image_folder} shares 10 of its images with the test split, the first is test/"
        in stderr
    )
    assert load_manifest(study)["evaluations"] == []
    assert not (study / "models").exists()


def test_a_stored_front_of_before_is_one_sentence_with_its_cure(study):
    record = load_manifest(study)
    record["config"]["evaluation"]["also"] = "front"
    del record["config"]["evaluation"]["front"]
    save_manifest(study, record)
    code, _, stderr = call(study)
    assert (code, len(stderr.strip().splitlines())) == (2, 1)
    assert "set evaluation.front=true and evaluation.also=null" in stderr
    cure = ["--set", "evaluation.front=true", "--set", "evaluation.also=null"]
    assert "evaluation.seeds = 0" in call(study, *cure, "--set", "evaluation.seeds=0")[2]


def test_retrainings_that_fail_are_named_and_the_opening_stays_recorded(tmp_path, pack_copy):
    config = build_config(tmp_path / "results")
    create_folder(config, pack_copy)
    journal = Journal(config.directory / "study.journal", "tiny", note=print)
    add_trial(journal, config, "cnn", [0.5])
    record = load_manifest(config.directory)
    (pack_copy / "test.labels").unlink()
    opened = OpenStudy(config=config, manifest=record, journal=journal, mirror=None)
    with (
        connect(config),
        pytest.raises(InputError, match=r"nothing to report\. The retraining cnn-seed0 failed: .*test\.labels"),
    ):
        conclude(opened, pack_copy, Console(quiet=True))
    (entry,) = read_yaml(config.directory / "study.yaml")["evaluations"]
    assert entry["opened"]


def remove_journal(study):
    (study / "study.journal").unlink()


def damage_record(study):
    save_manifest(study, load_manifest(study) | {"evaluations": {}})


def change_data(study):
    record = load_manifest(study)
    save_manifest(study, record | {"data": record["data"] | {"fingerprint": "0" * 64}})


def drop_cnn(study):
    record = load_manifest(study)
    record["config"]["search"]["architectures"].append("resnet50")
    save_manifest(study, record)


def rename(study):
    record = load_manifest(study)
    save_manifest(study, record | {"config": record["config"] | {"name": "other"}})


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (remove_journal, [], "no search has started there"),
        (damage_record, [], "evaluations = {}"),
        (change_data, [], "has other images than"),
        (drop_cnn, [], "No resnet50 trial was run: continue the search, or name the others with --architecture"),
        (rename, [], "has the study other"),
        (None, ["--report"], "there is no evaluation to report"),
        (
            None,
            ["--set", "search.max_epochs=9"],
            "an evaluation may change evaluation.*, resources.*, ",
        ),
        (None, ["--set", "evaluation.seeds=0"], "evaluation.seeds = 0"),
        (None, ["--set", "evaluation.threshold=2"], "evaluation.threshold"),
        (None, ["--set", "evaluation.threshold=test"], "evaluation.threshold"),
        (None, ["--set", "evaluation.temperature=0"], "evaluation.temperature"),
        (None, ["--set", "evaluation.max_train_images=100000"], "evaluation.max_train_images = 100,000: train has"),
        (None, ["--set", "evaluation.max_train_images=some"], "evaluation.max_train_images"),
        (None, ["--set", "evaluation.perturbations=[jpg]"], "evaluation.perturbations = ['jpg']: expected all, or a"),
        (None, ["--set", "evaluation.also={x: nowhere}"], "evaluation.also.x: nowhere does not exist: give the folder"),
        (None, ["--set", "evaluation.also={a b: nowhere}"], "evaluation.also = 'a b': expected NAME: PATH of folders"),
        (None, ["--set", "evaluation.also=front"], "evaluation.also = 'front': expected NAME: PATH of folders or zips"),
        (None, ["--architecture", "vit"], "the study has cnn"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_trained(study, prepare, arguments, message):
    if prepare:
        prepare(study)
    code, _, stderr = call(study, *arguments)
    assert code == 2
    assert stderr.startswith("error: ")
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not (study / "models").exists()
    assert not (study / "study.lock").exists()


def test_weights_that_cannot_be_loaded_are_one_error_before_the_retraining(study, tmp_path):
    record = load_manifest(study)
    record["config"]["search"]["architectures"].append("resnet50")
    record["config"]["space"]["resnet50"] = {"weights": str(tmp_path / "nowhere.pt")}
    save_manifest(study, record)
    config = parse(record["config"])
    add_trial(Journal(study / "study.journal", "tiny", note=print), config, "resnet50", [0.5])
    code, stdout, stderr = call(study)
    assert (code, "nowhere.pt" in stderr) == (2, True)
    assert "Retraining" not in stdout
    assert not load_manifest(study)["evaluations"]


def test_a_folder_without_a_study_is_named(tmp_path):
    code, _, stderr = call(tmp_path)
    assert (code, f"there is no study in {tmp_path}" in stderr) == (2, True)


def test_the_record_of_a_study_keeps_its_evaluations_when_it_is_resumed(study):
    from search.record.manifest import compare_manifest

    record = load_manifest(study)
    chosen = {"time": "2026-11-28T12:00:00+00:00", "commit": None, "dirty": None}
    choices = {"rule": "best", "seeds": 1, "top_k": 1, "threshold": 0.5, "fingerprint": "f", "winners": []}
    record["evaluations"].append({"chosen": chosen, **choices, "opened": None})
    save_manifest(study, record)
    config = parse(record["config"])
    packed = next(path for path in (study.parent.parent / "cache").iterdir() if path.is_dir())
    assert compare_manifest(config, packed)[0]["evaluations"] == record["evaluations"]
    larger = parse(dump(config) | {"search": dump(config)["search"] | {"seed": 4}})
    assert compare_manifest(larger, packed, accept_changes=True)[0]["evaluations"] == record["evaluations"]

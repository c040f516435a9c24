"""Stored models trained again: the same bits here, a tolerance elsewhere, and exit code 1 when they differ."""

import functools
import json
import shutil

import pytest
import torch
import typer
from typer.testing import CliRunner

from search.cluster.worker import run_job
from search.commands.reproduce import choose_records, compare, list_obstacles, main
from search.config.load import parse
from search.config.schema import ResourceConfig
from search.evaluation.model_file import load_record
from search.evaluation.model_record import Retraining
from search.evaluation.retrainings import ModelFolder, build_job
from search.evaluation.sealed_test import save_tested
from search.record.manifest import build_manifest, save_manifest
from search.record.object_store import Store
from trainables.pack import pack
from trainables.pack_info import load_info

APP = typer.Typer()
APP.command()(main)


@pytest.fixture
def study(tmp_path, image_folder, cache):
    """An evaluated study with one model, trained on the images of image_folder."""
    folder = tmp_path / "results" / "x"
    (folder / "models").mkdir(parents=True)
    config = parse({"name": "x", "data": {"path": str(image_folder), "cache": str(cache)}})
    packed = pack(image_folder, cache)
    fingerprint = load_info(packed).fingerprint
    save_manifest(folder, build_manifest(config, packed))
    retraining = Retraining(
        label="cnn-seed0",
        architecture="cnn",
        rank=1,
        seed=0,
        trial=4,
        params={"filters": 4, "batch_size": 8, "dropout": 0.2, "flip": True},
        train_seed=11,
        max_epochs=3,
        epochs=2,
        max_train_images=None,
        split_seed=0,
        fingerprint=fingerprint,
        threshold=0.5,
    )
    models = ModelFolder(str(folder / "models"))
    finish = functools.partial(save_tested, models, {"cnn-seed0": retraining}, {})
    job = build_job(retraining, packed, ResourceConfig(), folder=models)
    *_, tested = run_job(lambda: str(packed), finish, job)
    assert tested.result.label == "cnn-seed0", tested
    return folder


def call(*arguments):
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_same_machine_gives_the_same_bits_and_nothing_is_changed(study):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in study.rglob("*") if path.is_file()}
    code, stdout, stderr = call(study)
    assert (code, stderr) == (0, "")
    assert "the same, weights and metrics, bit for bit" in stdout
    assert stdout.endswith("1 of 1 models reproduced.\n")
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in study.rglob("*") if path.is_file()} == before


def test_an_architecture_names_the_models_of_its_winner_alone(study):
    stored = study / "models" / "cnn-seed0.json"
    for label, known in (("cnn-rank2-seed0", {"rank": 2, "seed": 0}), ("cnn-seed1", {"rank": 1, "seed": 1})):
        content = json.loads(stored.read_text())
        for part in ("retraining", "tested"):
            content[part].update(known, label=label)
        stored.with_stem(label).write_text(json.dumps(content))

    def choose(model, seed=None):
        return [record.label for record in choose_records(study, "x", model, seed)]

    assert choose("cnn") == ["cnn-seed0", "cnn-seed1"]
    assert choose("cnn", 0) == choose("cnn-seed0") == ["cnn-seed0"]
    assert choose("cnn-rank2") == ["cnn-rank2-seed0"]
    assert choose(None) == ["cnn-rank2-seed0", "cnn-seed0", "cnn-seed1"]


def test_a_study_in_an_object_store_is_read_from_it(study, bucket):
    store = Store(f"s3://{bucket}/studies/x")
    store.upload({path.relative_to(study).as_posix(): path for path in study.rglob("*") if path.is_file()})
    before = store.list()
    shutil.rmtree(study)
    code, stdout, stderr = call(store.url)
    assert (code, stderr) == (0, "")
    assert "the same, weights and metrics, bit for bit" in stdout
    assert store.list() == before
    assert f"there is no study in s3://{bucket}/studies/y" in call(f"s3://{bucket}/studies/y")[2]
    assert f"{store.url} has no such model; there are cnn-seed0" in call(store.url, "--seed", 1)[2]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_is_trained_again_in_the_precision_of_its_record(study, monkeypatch, precision):
    """The machine that trains it again would choose the other one."""
    monkeypatch.setattr("trainables.runtime.multiplies_bfloat16", lambda: precision == "float32")
    record = study / "models" / "cnn-seed0.json"
    trained = load_record(record).parameters["precision"]
    code, stdout, _ = call(study)
    assert (code, f"again in {trained} ..." in stdout) == (0, True)
    assert "bit for bit" in stdout
    edit(record, lambda content: content["parameters"].update(precision=precision))
    assert f"again in {precision} ..." in call(study)[1]


def test_a_record_of_a_version_without_precisions_is_trained_again_in_float32(study):
    edit(study / "models" / "cnn-seed0.json", lambda content: content["parameters"].pop("precision"))
    assert "again in float32 ..." in call(study)[1]


def test_a_model_of_another_seed_is_found_out(study):
    edit(study / "models" / "cnn-seed0.json", lambda content: content["retraining"].update(train_seed=12))
    code, stdout, _ = call(study, "--model", "cnn", "--seed", 0)
    assert code == 1
    assert "DIFFERENT: on the same machine and versions every bit should agree" in stdout
    assert stdout.endswith("0 of 1 models reproduced.\n")


def test_a_metric_that_was_polished_is_found_out(study):
    edit(study / "models" / "cnn-seed0.json", lambda content: content["tested"]["metrics"].update(accuracy=0.999))
    code, stdout, _ = call(study)
    assert code == 1
    assert "accuracy 0.999000 became" in stdout


def test_other_versions_are_named_and_the_metrics_need_only_be_close(study):
    record = study / "models" / "cnn-seed0.json"

    def pretend(content):
        content["code"]["packages"]["torch"] = "1.0"
        content["tested"]["metrics"]["accuracy"] += 0.01

    edit(record, pretend)
    code, stdout, _ = call(study)
    assert code == 0
    assert "bits cannot agree (torch 1.0 became" in stdout
    assert "the metrics agree within 0.02" in stdout
    edit(record, lambda content: content["tested"]["metrics"].update(accuracy=0.9))
    code, stdout, _ = call(study)
    assert code == 1
    assert "DIFFERENT: a metric is off by" in stdout


def test_what_stands_in_the_way_of_equal_bits_is_listed(make_record):
    record = make_record()
    packages = {"torch": "2.14.1", "torchvision": "1", "numpy": "1", "scikit-learn": "1"}
    record.code["packages"] = packages
    same = {"type": "cpu", "name": "a CPU", "threads": 2}
    assert list_obstacles(record, same, {"packages": packages}) == []
    other = {"precision": "float32"}
    record.hardware.update(precision="bfloat16")
    assert list_obstacles(record, same | other, {"packages": packages}) == ["native precision bfloat16 became float32"]
    assert list_obstacles(record, same | {"threads": 1}, {"packages": packages}) == ["threads 2 became 1"]
    newer = packages | {"numpy": "2"}
    assert list_obstacles(record, same, {"packages": newer}) == ["numpy 1 became 2"]
    record.hardware.update(earlier=[{"threads": 1}])
    found = list_obstacles(record, same, {"packages": packages})
    assert found == ["it was trained on several machines, or with several numbers of threads"]
    del record.hardware["earlier"]
    record.hardware.update(type="cuda", name="a GPU")
    found = list_obstacles(record, same | {"type": "cuda", "name": "a GPU"}, {"packages": packages})
    assert found == ["it was trained on a GPU without `deterministic`"]


def test_weights_that_are_no_numbers_never_agree(make_record):
    bad = {"weight": torch.tensor([1.0, float("nan")])}
    assert compare(make_record(), bad, bad, {})[0] != 0


def test_without_the_weights_their_checksum_is_compared(study):
    (study / "models" / "cnn-seed0.safetensors").unlink()
    code, stdout, stderr = call(study, "--model", "cnn-seed0")
    assert (code, stderr) == (0, "")
    assert "the same, weights and metrics, bit for bit" in stdout
    edit(study / "models" / "cnn-seed0.json", lambda content: content["retraining"].update(train_seed=12))
    code, stdout, _ = call(study)
    assert code == 1
    assert "  the weights differ\n  DIFFERENT: on the same machine and versions every bit should agree" in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["x", "--seed", "7"], "has no such model; there are cnn-seed0"),
        (["x", "--model", "resnet50"], "has no such model; there are cnn-seed0"),
        (["x", "--data", "other"], "other has other images than cnn-seed0 was trained on"),
        (["gone/x"], "gone/x has no models"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(study, image_folder, monkeypatch, arguments, message):
    monkeypatch.chdir(study.parent)
    (study.parent / "gone" / "x").mkdir(parents=True)
    (study.parent / "gone" / "x" / "study.yaml").write_bytes((study / "study.yaml").read_bytes())
    (image_folder / "train/REAL/0.png").unlink()
    image_folder.rename(study.parent / "other")
    code, _, stderr = call(*arguments)
    assert code == 2
    assert stderr.startswith("error: ")
    assert message in stderr
    assert len(stderr.splitlines()) == 1


def test_altered_weights_are_refused_before_anything_is_trained(study):
    (study / "models" / "cnn-seed0.safetensors").write_bytes(b"altered")
    code, stdout, stderr = call(study)
    assert code == 2
    assert "training" not in stdout
    assert "differs from its record" in stderr


def test_a_record_names_what_a_retraining_needs(study):
    record = load_record(study / "models" / "cnn-seed0.json")
    assert (record.hardware["type"], record.hardware["threads"], record.hardware["cpus"]) == ("cpu", 1, 1.0)
    assert record.parameters["learning_rate"] == 1e-3
    assert {"torch", "numpy"} <= record.code["packages"].keys()

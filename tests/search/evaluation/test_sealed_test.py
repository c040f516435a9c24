import dataclasses
import functools
import hashlib
import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from search.cluster.job import Failure, Report
from search.cluster.worker import run_job
from search.config.schema import ResourceConfig
from search.evaluation import result
from search.evaluation.model_file import load_model, load_predictions, load_record
from search.evaluation.model_record import Retraining
from search.evaluation.retrainings import ModelFolder, build_job, load_tested, load_tests
from search.evaluation.sealed_test import NUM_MISTAKES, measure_on_validation, save_tested
from trainables import checkpoint
from trainables.errors import InputError
from trainables.splits import open_test

TEST_IMAGES = 10


def make_retraining(**changes):
    return Retraining(
        **{
            "label": "cnn-seed0",
            "architecture": "cnn",
            "rank": 1,
            "seed": 0,
            "trial": 3,
            "params": {"filters": 4, "batch_size": 8, "dropout": 0.2, "flip": True},
            "train_seed": 5,
            "max_epochs": 4,
            "epochs": 3,
            "max_train_images": None,
            "split_seed": 0,
            "fingerprint": "f" * 64,
            "threshold": 0.5,
        }
        | changes
    )


def retrain(retraining, packed, folder):
    """Return the steps of a retraining."""
    models = ModelFolder(str(folder))
    finish = functools.partial(save_tested, models, {retraining.label: retraining}, {})
    return run_job(lambda: str(packed), finish, build_job(retraining, packed, ResourceConfig(), folder=models))


def calibrate(retraining, packed, folder, val_fraction, temperature=1.0):
    """Return the steps of the training that a threshold is chosen with."""
    finish = functools.partial(measure_on_validation, "accuracy", temperature=temperature)
    job = build_job(retraining, packed, ResourceConfig(), folder=ModelFolder(str(folder)), val_fraction=val_fraction)
    return run_job(lambda: str(packed), finish, job)


def hash_weights(folder):
    return hashlib.sha256((folder / "cnn-seed0.safetensors").read_bytes()).hexdigest()


def test_a_retraining_reports_every_epoch_and_then_the_tested_model_and_leaves_only_its_files(packed, tmp_path):
    *epochs, tested = list(retrain(make_retraining(), packed, tmp_path))
    assert [(message.metrics["epoch"], message.is_new) for message in epochs] == [(1, True), (2, True), (3, True)]
    assert load_tested(tmp_path, make_retraining()) == tested.result
    tested = tested.result
    assert sum(map(sum, tested.confusion)) == TEST_IMAGES
    speeds = {"images_per_second_1", "images_per_second_256"}
    assert set(tested.cost) - {"peak_memory_bytes"} == {"macs", "training_seconds", *speeds}
    assert all(value > 0 for value in tested.cost.values())
    names = {path.name.removeprefix("cnn-seed0") for path in tmp_path.iterdir()}
    assert names == {".json", ".md", ".safetensors", ".predictions.safetensors"}


def test_a_killed_retraining_continues_to_the_same_weights_bit_for_bit(packed, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    list(retrain(make_retraining(), packed, straight))
    steps = retrain(make_retraining(), packed, killed)
    next(steps), next(steps)
    del steps
    again = list(retrain(make_retraining(), packed, killed))
    assert [message.is_new for message in again if isinstance(message, Report)] == [False, False, True]
    assert hash_weights(killed) == hash_weights(straight)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_record_names_the_hardware_of_earlier_epochs_if_it_was_another(packed, tmp_path, monkeypatch, epochs):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("torch.backends.cpu.get_cpu_capability", lambda: "OLD")
        steps = retrain(make_retraining(), packed, tmp_path)
        for _ in range(epochs):
            next(steps)
        del steps
    steps = retrain(make_retraining(), packed, tmp_path)
    for _ in range(2):  # one is trained here, or none
        next(steps)
    del steps
    list(retrain(make_retraining(), packed, tmp_path))
    hardware = load_record(tmp_path / "cnn-seed0.json").hardware
    assert [each["vectors"] for each in hardware["earlier"]] == ["OLD"]
    assert hardware["vectors"] == torch.backends.cpu.get_cpu_capability()


def test_the_record_of_a_retraining_on_one_machine_names_no_other(packed, tmp_path):
    next(retrain(make_retraining(), packed, tmp_path))
    list(retrain(make_retraining(), packed, tmp_path))
    assert "earlier" not in load_record(tmp_path / "cnn-seed0.json").hardware


def test_a_retraining_killed_after_its_last_epoch_is_only_tested_again(packed, tmp_path):
    steps = retrain(make_retraining(), packed, tmp_path)
    for _ in range(3):
        next(steps)
    *epochs, tested = list(retrain(make_retraining(), packed, tmp_path))
    assert not any(message.is_new for message in epochs)
    assert isinstance(tested.result, result.TestedModel)


def test_the_checkpoint_of_another_retraining_is_not_continued(packed, tmp_path):
    steps = retrain(make_retraining(train_seed=6), packed, tmp_path)
    next(steps)
    assert checkpoint.load(tmp_path / "cnn-seed0.ckpt") is not None
    assert all(message.is_new for message in list(retrain(make_retraining(), packed, tmp_path))[:-1])


def test_the_logits_and_the_most_confident_mistakes_are_stored(packed, tmp_path):
    tested = list(retrain(make_retraining(), packed, tmp_path))[-1].result
    labels, probabilities, mistakes = load_tests(tmp_path, "cnn-seed0")
    test = open_test(packed)
    np.testing.assert_array_equal(labels, test.labels.numpy())
    assert tested.metrics["accuracy"] == np.mean((probabilities > 0.5) == labels)
    (_, false_real), (false_fake, _) = tested.confusion
    assert len(mistakes) == min(NUM_MISTAKES, false_real + false_fake) > 0
    sureness = [abs(mistake.probability - mistake.truth) for mistake in mistakes]
    assert sureness == sorted(sureness, reverse=True)
    for mistake in mistakes:
        index = int(np.flatnonzero(probabilities == np.float32(mistake.probability))[0])
        assert torch.equal(torch.from_numpy(mistake.image), test.images[index])


def test_the_loss_of_the_test_is_that_of_the_stored_logits(packed, tmp_path):
    tested = list(retrain(make_retraining(), packed, tmp_path))[-1].result
    found = load_predictions(tmp_path, load_record(tmp_path / "cnn-seed0.json"))
    logits, labels = (torch.from_numpy(found[name]).double() for name in ("logits", "labels"))
    assert tested.metrics["loss"] == functional.binary_cross_entropy_with_logits(logits, labels).item()


@pytest.mark.parametrize("change", [{"epochs": 2}, {"threshold": 0.4}, {"temperature": 2.0}, {"fingerprint": "0" * 64}])
def test_another_retraining_of_the_same_label_does_not_count(packed, tmp_path, change):
    list(retrain(make_retraining(), packed, tmp_path))
    assert load_tested(tmp_path, dataclasses.replace(make_retraining(), **change)) is None


def test_a_temperature_changes_the_probabilities_and_neither_weights_nor_stored_logits(packed, tmp_path):
    plain, warm = tmp_path / "plain", tmp_path / "warm"
    before = list(retrain(make_retraining(), packed, plain))[-1].result
    after = list(retrain(make_retraining(temperature=2.0), packed, warm))[-1].result
    assert hash_weights(warm) == hash_weights(plain)
    logits = [
        load_predictions(folder, load_record(folder / "cnn-seed0.json"))["logits"].astype(np.float64)
        for folder in (plain, warm)
    ]
    np.testing.assert_array_equal(*logits)
    labels, probabilities, _ = load_tests(warm, "cnn-seed0")
    np.testing.assert_array_equal(probabilities, (1 / (1 + np.exp(-logits[0] / 2.0))).astype(np.float32))
    assert after.metrics["ece_uncalibrated"] == before.metrics["ece"] != after.metrics["ece"]
    assert after.metrics["brier"] == pytest.approx(np.mean((probabilities - labels) ** 2))
    assert after.confusion == before.confusion
    assert "ece_uncalibrated" not in before.metrics
    assert "divided by the temperature 2.0." in (warm / "cnn-seed0.md").read_text()
    assert "temperature" not in (plain / "cnn-seed0.md").read_text()


def test_a_model_of_before_temperatures_counts_as_one_of_temperature_1(packed, tmp_path):
    tested = list(retrain(make_retraining(), packed, tmp_path))[-1].result
    path = tmp_path / "cnn-seed0.json"
    content = json.loads(path.read_text())
    del content["retraining"]["temperature"], content["tested"]["temperature"]
    path.write_text(json.dumps(content))
    assert load_tested(tmp_path, make_retraining()) == tested
    content["tested"]["temperature"] = 2.0
    path.write_text(json.dumps(content))
    assert load_tested(tmp_path, make_retraining()) is None


@pytest.mark.parametrize("suffix", [".safetensors", ".predictions.safetensors", ".json"])
def test_a_retraining_whose_files_are_damaged_or_missing_is_done_again(packed, tmp_path, suffix):
    list(retrain(make_retraining(), packed, tmp_path))
    path = tmp_path / f"cnn-seed0{suffix}"
    path.write_bytes(path.read_bytes()[:-1])
    assert load_tested(tmp_path, make_retraining()) is None
    path.unlink()
    assert (load_tested(tmp_path, make_retraining()) is None) == (suffix != ".safetensors")


def test_a_tested_model_stays_tested_without_its_weights_and_what_needs_them_says_how_to_train_it_again(
    packed, tmp_path
):
    tested = list(retrain(make_retraining(), packed, tmp_path))[-1].result
    (tmp_path / "cnn-seed0.safetensors").unlink()
    assert load_tested(tmp_path, make_retraining()) == tested
    with pytest.raises(InputError, match=r"cnn-seed0.safetensors \(No such .*, delete cnn-seed0.json and evaluate the"):
        load_model(tmp_path / "cnn-seed0.safetensors")


def test_a_threshold_is_chosen_without_opening_the_test_split(pack_copy, tmp_path):
    for name in ("images", "labels"):
        (pack_copy / f"test.{name}").unlink()
    *epochs, measured = list(calibrate(make_retraining(label="cnn-threshold"), pack_copy, tmp_path / "models", 0.25))
    assert 0.0 < measured.result.threshold < 1.0
    assert measured.result.curve == tuple(epoch.metrics["accuracy"] for epoch in epochs)
    assert len(epochs) == 3
    (failure,) = [one for one in list(retrain(make_retraining(), pack_copy, tmp_path)) if not isinstance(one, Report)]
    assert isinstance(failure, Failure)
    assert "test." in failure.reason


def test_a_temperature_is_fitted_on_validation_before_the_threshold_is_chosen(packed, tmp_path):
    found = {}
    for temperature in (1.0, 4.0, "validation"):
        steps = calibrate(make_retraining(), packed, tmp_path / str(temperature), 0.25, temperature)
        found[temperature] = list(steps)[-1].result
    assert [found[temperature].temperature for temperature in (1.0, 4.0)] == [1.0, 4.0]
    assert 0.1 <= found["validation"].temperature <= 10.0
    assert len({each.curve for each in found.values()}) == 1
    assert found[4.0].threshold != found[1.0].threshold

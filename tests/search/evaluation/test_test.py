import dataclasses
import functools
import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional

from search.cluster.job import Failure, Report
from search.cluster.worker import run_job
from search.config.schema import ResourceConfig
from search.evaluation import result
from search.evaluation.model_file import load_predictions, load_record
from search.evaluation.model_record import Retraining
from search.evaluation.retrainings import ModelFolder, build_job, load_tested, load_tests
from search.evaluation.test import NUM_MISTAKES, measure_on_validation, save_tested
from trainables import checkpoint
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
    finish = functools.partial(save_tested, models, {retraining.label: retraining})
    return run_job(lambda: str(packed), finish, build_job(retraining, packed, ResourceConfig(), folder=models))


def calibrate(retraining, packed, folder, val_fraction):
    """Return the steps of the training that a threshold is chosen with."""
    job = build_job(retraining, packed, ResourceConfig(), folder=ModelFolder(str(folder)), val_fraction=val_fraction)
    return run_job(lambda: str(packed), functools.partial(measure_on_validation, "accuracy"), job)


def hash_weights(folder):
    return hashlib.sha256((folder / "cnn-seed0.safetensors").read_bytes()).hexdigest()


def test_it_tells_every_epoch_and_then_the_tested_model_and_leaves_only_its_files(packed, tmp_path):
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


def test_one_killed_after_its_last_epoch_is_only_tested_again(packed, tmp_path):
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


def test_what_is_stored_are_the_logits_and_the_surest_mistakes(packed, tmp_path):
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


@pytest.mark.parametrize("change", [{"epochs": 2}, {"threshold": 0.4}, {"fingerprint": "0" * 64}])
def test_another_retraining_of_the_same_label_does_not_count(packed, tmp_path, change):
    list(retrain(make_retraining(), packed, tmp_path))
    assert load_tested(tmp_path, dataclasses.replace(make_retraining(), **change)) is None


@pytest.mark.parametrize("suffix", [".safetensors", ".predictions.safetensors", ".json"])
def test_one_whose_files_are_damaged_or_missing_is_done_again(packed, tmp_path, suffix):
    list(retrain(make_retraining(), packed, tmp_path))
    path = tmp_path / f"cnn-seed0{suffix}"
    path.write_bytes(path.read_bytes()[:-1])
    assert load_tested(tmp_path, make_retraining()) is None
    path.unlink()
    assert load_tested(tmp_path, make_retraining()) is None


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

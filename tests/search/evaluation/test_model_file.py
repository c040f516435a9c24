"""A trained model on disk: what is written in which order, and what is refused when it is read."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from search.evaluation.model_file import check_files, load_model, load_predictions, load_record, save_model
from trainables.config import build_train_config, list_values
from trainables.errors import InputError
from trainables.models.model import build_model

CONFIG = build_train_config("cnn", {"filters": 4, "dense_units": 8}, epochs=3, seed=5)


@pytest.fixture
def model():
    return build_model(CONFIG.model, seed=1)


@pytest.fixture
def saved(tmp_path, model, make_record):
    """A model's file of weights, with record, card and predictions."""
    save_model(tmp_path, make_record(), model.state_dict(), {"probabilities": np.array([0.25, 1.0], np.float32)})
    return tmp_path / "cnn-seed0.safetensors"


def test_a_model_comes_back_as_it_was_saved(saved, model, make_record):
    loaded = load_model(saved)
    assert loaded.config == CONFIG
    assert dataclasses.replace(loaded.record, sha256={}) == make_record()
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(loaded.model.eval()(images), model.eval()(images))
    assert load_predictions(saved.parent, loaded.record)["probabilities"].tolist() == [0.25, 1.0]


def test_a_pretrained_model_comes_back_without_the_weights_it_started_from(tmp_path, make_record):
    params = {"weights": str(tmp_path / "gone.pth"), "input_size": 32}
    config = build_train_config("resnet50", params, epochs=3, seed=5)
    fresh = build_model(build_train_config("resnet50", {}, epochs=3, seed=5).model)
    record = dataclasses.replace(make_record(architecture="resnet50"), parameters=list_values(config))
    save_model(tmp_path, record, fresh.state_dict())
    loaded = load_model(tmp_path / "cnn-seed0.safetensors").model
    assert loaded.is_pretrained
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_the_card_says_what_the_model_is_and_is_not_for(saved):
    card = saved.with_suffix(".md").read_text()
    for words in (
        "# cnn-seed0",
        "| accuracy | 0.9000 |",
        "| filters | 4 |",
        "c0ffee",
        "Tells REAL from FAKE",
        "32x32",
        "above 0.5",
    ):
        assert words in card


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("written", range(4))
def test_a_kill_between_any_two_files_leaves_no_model(saved, model, make_record, monkeypatch, written):
    import search.evaluation.model_file

    calls = []

    def write_some(path, content):
        if len(calls) == written:
            raise Killed
        calls.append(path)
        path.write_bytes(content)

    monkeypatch.setattr(search.evaluation.model_file, "write_file", write_some)
    with pytest.raises(Killed):
        save_model(saved.parent, make_record(seed=1), model.state_dict(), {"probabilities": np.zeros(2)})
    assert not saved.with_suffix(".json").exists()
    with pytest.raises(InputError, match=r"has no record \(cnn-seed0\.json\) next to it"):
        load_model(saved)


def test_altered_weights_are_refused(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(InputError, match=r"cnn-seed0\.safetensors differs from its record"):
        load_model(saved)


def test_altered_predictions_are_refused(saved):
    record = load_record(saved.with_suffix(".json"))
    check_files(saved.parent, record)
    (saved.parent / "cnn-seed0.predictions.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"predictions\.safetensors differs from its record"):
        check_files(saved.parent, record)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"retraining": {}}', "null"])
def test_a_record_that_is_none_is_refused(saved, content):
    saved.with_suffix(".json").write_text(content)
    with pytest.raises(InputError, match="is not the record of a model, or damaged"):
        load_model(saved)


@pytest.mark.parametrize("part", ["retraining", "tested", "sha256"])
def test_a_record_that_lacks_a_part_is_refused(saved, part):
    path = saved.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: {}}))
    with pytest.raises(InputError, match="is not the record of a model, or damaged"):
        load_model(saved)


def test_weights_of_another_shape_are_refused(saved):
    path = saved.with_suffix(".json")
    content = json.loads(path.read_text())
    content["parameters"]["filters"] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="does not fit its record") as caught:
        load_model(saved)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.safetensors", "nowhere.safetensors does not exist"),
        ("cnn-seed0.json", "is not a model: give a .safetensors file"),
        ("cnn-seed0.predictions.safetensors", "has no record"),
    ],
)
def test_what_is_no_model_is_refused(saved, name, message):
    with pytest.raises(InputError, match=message):
        load_model(saved.parent / name)

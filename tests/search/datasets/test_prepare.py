import json
import sys

import pytest
import torch
import yaml
from rich.console import Console

from search.config.load import load, parse
from search.config.yaml import read_yaml
from search.datasets.prepare import prepare_data, prepare_weights
from search.record.folder import create_folder
from search.record.manifest import compare_manifest
from trainables.config import build_train_config
from trainables.errors import InputError
from trainables.models.model import build_model, restore_model
from trainables.names import IMPORTED, import_own
from trainables.optim import build_optimizer

MODELS = """
from dataclasses import dataclass

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        if kind == "tied":
            self.second.weight = self.first.weight
        if kind == "random":
            self.extra = nn.Parameter(torch.zeros(int(torch.randint(1, 10**6, ()))))
        if kind == "computed":
            self.steps = torch.linspace(0, 1, 3).tolist()
        if kind == "sparse":
            self.register_buffer("mask", torch.eye(3).to_sparse())
        self.kind = kind

    def get_extra_state(self):
        return {"kind": self.kind}

    def set_extra_state(self, state):
        pass

    def state_dict(self, *args, **kwargs):
        found = super().state_dict(*args, **kwargs)
        return found if self.kind == "more" else {k: v for k, v in found.items() if "extra_state" not in k}

    def load_state_dict(self, state, strict=True):
        return super().load_state_dict(state, strict=False)

    def forward(self, images):
        return self.second(self.first(images.mean((2, 3)))).mean(1)


@dataclass(frozen=True, kw_only=True)
class Own:
    kind: str = "plain"

    def build(self, *, size: int) -> nn.Module:
        return Net(self.kind)


class Silent(torch.optim.SGD):
    def step(self):
        raise ZeroDivisionError("no step")
"""


def build(tmp_path, **changes):
    return parse({"name": "x", "results": str(tmp_path / "results"), **changes})


@pytest.fixture
def load_own(tmp_path, monkeypatch):
    """Load a study of code beside it: load_own(the study's values)."""
    IMPORTED.clear()
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    (tmp_path / "own_parts.py").write_text(MODELS)

    def load_own(values):
        (tmp_path / "study.yaml").write_text(json.dumps({"name": "x", **values}))
        return load(tmp_path / "study.yaml")

    return load_own


@pytest.mark.parametrize("kind", ["plain", "tied"])
def test_a_model_that_can_be_saved_and_restored_is_accepted(load_own, kind):
    prepare_weights(load_own({"search": {"architectures": ["own_parts:Own"]}, "space": {"Own": {"kind": kind}}}))
    config = build_train_config("own_parts:Own", {"kind": kind}, epochs=1, seed=0).model
    model, images = build_model(config), torch.rand(2, 3, 32, 32)
    assert torch.equal(restore_model(config, model.state_dict())(images), model(images))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("more", "saved for images of 32 pixels: AttributeError"),
        ("sparse", "saved for images of 32 pixels: "),
        ("random", "restored from its weights for images of 32 pixels: "),
        ("computed", "restored from its weights for images of 32 pixels: "),
    ],
)
def test_a_model_that_cannot_be_saved_or_restored_is_refused_before_the_first_trial(load_own, kind, said):
    config = load_own({"search": {"architectures": ["own_parts:Own"]}, "space": {"Own": {"kind": kind}}})
    with pytest.raises(InputError, match=f"^own_parts:Own cannot be {said}"):
        prepare_weights(config)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torch.optim:Rprop", "TypeError.*weight_decay"),
        ("torch.optim:LBFGS", "TypeError"),
        ("own_parts:Silent", "ZeroDivisionError: no step"),
        ("own_parts:Own", "TypeError"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "{{choice: [adam, {}]}}"])
def test_an_optimizer_that_cannot_train_is_refused_before_the_first_trial(load_own, name, said, form):
    known = yaml.safe_load(form.format(f'"{name}"'))
    config = load_own({"search": {"architectures": ["cnn"]}, "space": {"shared": {"optimizer": known}}})
    with pytest.raises(InputError, match=f"^{name} cannot train .{said}.*: an optimizer is a torch.optim.Optimizer of"):
        prepare_weights(config)


def test_an_optimizer_of_torch_may_be_named(load_own):
    space = {"cnn": {"optimizer": {"choice": ["torch.optim:NAdam", "torch.optim:RMSprop", "sgd"]}}}
    prepare_weights(load_own({"search": {"architectures": ["cnn"]}, "space": space}))
    config = build_train_config("cnn", {"optimizer": "torch.optim:NAdam"}, epochs=1, seed=0)
    assert isinstance(build_optimizer(config, torch.nn.Linear(1, 1)), torch.optim.NAdam)


def test_the_folder_appears_with_a_whole_study_yaml(tmp_path, packed):
    config = build(tmp_path)
    create_folder(config, packed)
    record = read_yaml(config.directory / "study.yaml")
    assert parse(record["config"]) == config
    assert len(record["data"]["fingerprint"]) == 64
    assert set(record["code"]) == {"commit", "dirty", "source", "python", "packages"}
    assert record["code"]["packages"]["optuna"]
    assert [path.name for path in config.directory.parent.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("data", "message"),
    [({"max_train_images": 4, "val_fraction": 0.9}, "val_fraction"), ({"path": "nowhere"}, "nowhere")],
)
def test_data_that_no_trial_could_use_are_refused_before_the_first(tmp_path, image_folder, data, message):
    config = build(tmp_path, data={"path": str(image_folder), "cache": str(tmp_path / "cache"), **data})
    with pytest.raises(InputError, match=message):
        prepare_data(config, Console(quiet=True))


def test_a_folder_that_is_no_studys_or_damaged_is_named(tmp_path, packed):
    config = build(tmp_path)
    config.directory.mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no study\.yaml"):
        create_folder(config, packed)
    (config.directory / "study.yaml").write_text("config: 5\n")
    with pytest.raises(InputError, match="is damaged"):
        compare_manifest(config, packed)
    blocked = build(tmp_path / "results")
    (tmp_path / "results" / "results").write_text("a file")
    with pytest.raises(InputError, match="cannot write the results"):
        create_folder(blocked, packed)


def test_more_test_images_than_a_report_can_compare_are_refused_before_the_first(tmp_path, image_folder, monkeypatch):
    config = build(tmp_path, data={"path": str(image_folder), "cache": str(tmp_path / "cache")})
    monkeypatch.setattr("search.datasets.prepare.MAX_TEST_IMAGES", 5)
    with pytest.raises(InputError, match=r"has \d+ test images, more than 5: remove some"):
        prepare_data(config, Console(quiet=True))


OWN = """
from dataclasses import dataclass

from torch import nn

SIZES = []


@dataclass(frozen=True, kw_only=True)
class Wide:
    weights: str = "none"

    def check(self, *, size: int, batch_size: int) -> None:
        assert size == 64

    def build(self, *, size: int) -> nn.Module:
        SIZES.append(size)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, 1), nn.Flatten(0))
"""


def test_initial_weights_are_fetched_for_images_of_the_studys_size(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_wide.py").write_text(OWN)
    name = "own_wide:Wide"
    import_own(name, str(tmp_path), "search.architectures")
    space = {"Wide": {"weights": {"choice": ["none", "mine"]}}}
    prepare_weights(build(tmp_path, data={"size": 64}, search={"architectures": [name]}, space=space))
    assert set(sys.modules["own_wide"].SIZES) == {64}

import pytest
from rich.console import Console

from search.config.load import parse
from search.config.yaml import read_yaml
from search.datasets.prepare import prepare_data, prepare_weights
from search.record.folder import create_folder
from search.record.manifest import compare_manifest
from trainables.errors import InputError
from trainables.names import import_own


def build(tmp_path, **changes):
    return parse({"name": "x", "results": str(tmp_path / "results"), **changes})


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


@dataclass(frozen=True, kw_only=True)
class Wide:
    weights: str = "none"

    def check(self, *, size: int, batch_size: int) -> None:
        assert size == 64

    def build(self, *, size: int) -> nn.Module:
        assert size == 64
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, 1), nn.Flatten(0))
"""


def test_initial_weights_are_fetched_for_images_of_the_studys_size(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_wide.py").write_text(OWN)
    name = "own_wide:Wide"
    import_own(name, str(tmp_path), "search.architectures")
    space = {"Wide": {"weights": {"choice": ["none", "mine"]}}}
    prepare_weights(build(tmp_path, data={"size": 64}, search={"architectures": [name]}, space=space))

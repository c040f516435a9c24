import pytest

from search.config import dump, parse
from search.document import read_document
from search.prepare import check_same, open_directory
from trainables.errors import InputError


def build(tmp_path, **changes):
    return parse({"name": "x", "results": str(tmp_path / "results"), **changes})


def test_the_folder_appears_with_a_whole_study_yaml(tmp_path, packed):
    config = build(tmp_path)
    open_directory(config, packed, resume=False)
    record = read_document(config.directory / "study.yaml")
    assert parse(record["config"]) == config
    assert len(record["data"]["fingerprint"]) == 64
    assert set(record["code"]) == {"commit", "dirty", "python", "packages"}
    assert record["code"]["packages"]["optuna"]
    assert [path.name for path in config.directory.parent.iterdir()] == ["x"]


def test_resuming_with_other_images_is_refused(tmp_path, packed):
    config = build(tmp_path)
    open_directory(config, packed, resume=False)
    path = config.directory / "study.yaml"
    path.write_text(path.read_text().replace("fingerprint: ", "fingerprint: 0"))
    with pytest.raises(InputError, match="holds other images"):
        open_directory(config, packed, resume=True)


def test_resuming_with_other_settings_is_refused_with_the_difference(tmp_path):
    before = dump(build(tmp_path))
    now = dump(build(tmp_path, search={"seed": 1}, space={"cnn": {"filters": 64}}))
    with pytest.raises(InputError, match=r"search\.seed: 0 became 1; space\.cnn\.filters: None became 64"):
        check_same(before, now)


def test_resuming_with_a_larger_budget_is_not_refused(tmp_path):
    before = dump(build(tmp_path))
    check_same(before, dump(build(tmp_path, search={"num_trials": 99, "max_hours": 2.0}, evaluation={"seeds": 1})))

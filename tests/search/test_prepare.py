import pytest
from rich.console import Console

from search.config import parse
from search.document import read_document
from search.prepare import list_differences, open_directory, prepare_data
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


def test_resuming_with_other_settings_is_refused_with_the_difference_unless_accepted(tmp_path, packed):
    before = build(tmp_path)
    open_directory(before, packed, resume=False)
    untouched = (before.directory / "study.yaml").read_bytes()
    now = build(tmp_path, search={"seed": 1}, space={"cnn": {"filters": 64}})
    with pytest.raises(InputError, match=r"search\.seed: 0 became 1; space\.cnn\.filters: None became 64.*--accept"):
        open_directory(now, packed, resume=True)
    assert (before.directory / "study.yaml").read_bytes() == untouched
    accepted = open_directory(now, packed, resume=True, accept_changes=True)
    assert accepted == ["search.seed: 0 became 1", "space.cnn.filters: None became 64"]
    assert open_directory(now, packed, resume=True) == []


def test_resuming_with_other_code_is_refused(tmp_path, packed):
    config = build(tmp_path)
    open_directory(config, packed, resume=False)
    record = read_document(config.directory / "study.yaml")
    older = {**record, "code": {**record["code"], "commit": "0" * 40}}
    assert [difference.split(":")[0] for difference in list_differences(older, record)] == ["commit"]


def test_resuming_with_a_larger_budget_is_not_refused(tmp_path, packed):
    open_directory(build(tmp_path), packed, resume=False)
    larger = build(tmp_path, search={"num_trials": 99, "max_hours": 2.0}, evaluation={"seeds": 1})
    assert open_directory(larger, packed, resume=True) == []
    assert parse(read_document(larger.directory / "study.yaml")["config"]) == larger


@pytest.mark.parametrize(
    ("data", "message"),
    [({"max_train_images": 4, "val_fraction": 0.9}, "val_fraction"), ({"path": "nowhere"}, "nowhere")],
)
def test_data_that_no_trial_could_use_are_refused_before_the_first(tmp_path, image_folder, data, message):
    config = build(tmp_path, data={"path": str(image_folder), "cache": str(tmp_path / "cache"), **data})
    with pytest.raises(InputError, match=message):
        prepare_data(config, Console(quiet=True))

import pytest
from rich.console import Console

from search.config import parse
from search.document import read_document
from search.prepare import compare_record, list_differences, make_directory, prepare_data, write_record
from trainables.errors import InputError


def build(tmp_path, **changes):
    return parse({"name": "x", "results": str(tmp_path / "results"), **changes})


def test_the_folder_appears_with_a_whole_study_yaml(tmp_path, packed):
    config = build(tmp_path)
    make_directory(config, packed)
    record = read_document(config.directory / "study.yaml")
    assert parse(record["config"]) == config
    assert len(record["data"]["fingerprint"]) == 64
    assert set(record["code"]) == {"commit", "dirty", "source", "python", "packages"}
    assert record["code"]["packages"]["optuna"]
    assert [path.name for path in config.directory.parent.iterdir()] == ["x"]


def test_resuming_with_other_images_is_refused(tmp_path, packed):
    config = build(tmp_path)
    make_directory(config, packed)
    path = config.directory / "study.yaml"
    path.write_text(path.read_text().replace("fingerprint: ", "fingerprint: 0"))
    with pytest.raises(InputError, match="holds other images"):
        compare_record(config, packed)


def test_resuming_with_other_settings_is_refused_with_the_difference_unless_accepted(tmp_path, packed):
    before = build(tmp_path)
    make_directory(before, packed)
    untouched = (before.directory / "study.yaml").read_bytes()
    now = build(tmp_path, search={"seed": 1}, space={"cnn": {"filters": 64}})
    with pytest.raises(InputError, match=r"search\.seed: 0 became 1; space\.cnn\.filters: None became 64.*--accept"):
        compare_record(now, packed)
    assert (before.directory / "study.yaml").read_bytes() == untouched
    record, accepted = compare_record(now, packed, accept_changes=True)
    assert accepted == ["search.seed: 0 became 1", "space.cnn.filters: None became 64"]
    write_record(now.directory, record)
    assert compare_record(now, packed)[1] == []


def change_code(record, **changes):
    return {**record, "code": {**record["code"], **changes}}


def test_resuming_with_other_code_is_refused_with_both_commits(tmp_path, packed):
    config = build(tmp_path)
    make_directory(config, packed)
    record = read_document(config.directory / "study.yaml")
    older = change_code(record, commit="0" * 40, dirty=True, source="f" * 64)
    (difference,) = list_differences(older, record)
    assert (
        "the code in search/ or trainables/ (commit 000000000000 with changes, hash ffffffffffff became" in difference
    )
    assert [found.split(":")[0] for found in list_differences(change_code(record, python="2.7"), record)] == ["python"]


def test_a_commit_that_changes_no_code_is_no_difference(tmp_path, packed):
    config = build(tmp_path)
    make_directory(config, packed)
    record = read_document(config.directory / "study.yaml")
    assert list_differences(change_code(record, commit="0" * 40, dirty=not record["code"]["dirty"]), record) == []


def test_resuming_with_a_larger_budget_is_not_refused(tmp_path, packed):
    make_directory(build(tmp_path), packed)
    larger = build(tmp_path, search={"num_trials": 99, "max_hours": 2.0}, evaluation={"seeds": 1})
    record, differences = compare_record(larger, packed)
    assert differences == []
    assert parse(record["config"]) == larger


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
    with pytest.raises(InputError, match=r"holds no study\.yaml"):
        make_directory(config, packed)
    (config.directory / "study.yaml").write_text("config: 5\n")
    with pytest.raises(InputError, match="is damaged"):
        compare_record(config, packed)
    blocked = build(tmp_path / "results")
    (tmp_path / "results" / "results").write_text("a file")
    with pytest.raises(InputError, match="cannot write the results"):
        make_directory(blocked, packed)

import os

import pytest

from search.config.load import parse
from search.config.yaml import read_yaml
from search.datasets.prepare import make_directory
from search.record.manifest import compare_record, list_differences, load_record, write_record
from trainables.errors import InputError
from trainables.pack import pack


def build(tmp_path, **changes):
    return parse({"name": "x", "results": str(tmp_path / "results"), **changes})


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
    record = read_yaml(config.directory / "study.yaml")
    older = change_code(record, commit="0" * 40, dirty=True, source="f" * 64)
    (difference,) = list_differences(older, record)
    assert (
        "the code in search/ or trainables/ (commit 000000000000 with changes, hash ffffffffffff became" in difference
    )
    assert [found.split(":")[0] for found in list_differences(change_code(record, python="2.7"), record)] == ["python"]


def test_a_commit_that_changes_no_code_is_no_difference(tmp_path, packed):
    config = build(tmp_path)
    make_directory(config, packed)
    record = read_yaml(config.directory / "study.yaml")
    assert list_differences(change_code(record, commit="0" * 40, dirty=not record["code"]["dirty"]), record) == []


def test_resuming_with_a_larger_budget_is_not_refused(tmp_path, packed):
    make_directory(build(tmp_path), packed)
    larger = build(tmp_path, search={"num_trials": 99, "max_hours": 2.0}, evaluation={"seeds": 1})
    record, differences = compare_record(larger, packed)
    assert differences == []
    assert parse(record["config"]) == larger


def test_a_skipped_file_whose_name_is_no_text_is_recorded(tmp_path, image_folder):
    name = os.fsdecode(b"train/REAL/\xff.png")
    (image_folder / name).write_bytes(b"no image")
    config = build(tmp_path)
    make_directory(config, pack(image_folder, tmp_path / "cache", on_bad_image="skip"))
    assert load_record(config.directory)["data"]["skipped"] == [r"train/REAL/\udcff.png"]

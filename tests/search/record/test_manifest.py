import json
import os
import shutil

import pytest

from search.config.load import parse
from search.config.yaml import read_yaml
from search.record.folder import create_folder
from search.record.manifest import compare_manifest, list_differences, load_manifest, save_manifest
from search.report.notes import _describe_data
from trainables.errors import InputError
from trainables.pack import pack


def build(tmp_path, **changes):
    return parse({"name": "x", "results": str(tmp_path / "results"), **changes})


def test_resuming_with_other_images_is_refused(tmp_path, packed):
    config = build(tmp_path)
    create_folder(config, packed)
    path = config.directory / "study.yaml"
    path.write_text(path.read_text().replace("fingerprint: ", "fingerprint: 0"))
    with pytest.raises(InputError, match="has other images"):
        compare_manifest(config, packed)


def test_resuming_with_other_settings_is_refused_with_the_difference_unless_accepted(tmp_path, packed):
    before = build(tmp_path)
    create_folder(before, packed)
    untouched = (before.directory / "study.yaml").read_bytes()
    now = build(tmp_path, search={"seed": 1}, space={"cnn": {"filters": 64}})
    with pytest.raises(InputError, match=r"search\.seed: 0 became 1; space\.cnn\.filters: None became 64.*--accept"):
        compare_manifest(now, packed)
    assert (before.directory / "study.yaml").read_bytes() == untouched
    record, accepted = compare_manifest(now, packed, accept_changes=True)
    assert accepted == ["search.seed: 0 became 1", "space.cnn.filters: None became 64"]
    save_manifest(now.directory, record)
    assert compare_manifest(now, packed)[1] == []


def change_code(record, **changes):
    return {**record, "code": {**record["code"], **changes}}


def test_resuming_with_other_code_is_refused_with_both_commits(tmp_path, packed):
    config = build(tmp_path)
    create_folder(config, packed)
    record = read_yaml(config.directory / "study.yaml")
    older = change_code(record, commit="0" * 40, dirty=True, source="f" * 64)
    (difference,) = list_differences(older, record)
    assert (
        "the code in search/ or trainables/ (commit 000000000000 with changes, hash ffffffffffff became" in difference
    )
    assert [found.split(":")[0] for found in list_differences(change_code(record, python="2.7"), record)] == ["python"]


def test_a_commit_that_changes_no_code_is_no_difference(tmp_path, packed):
    config = build(tmp_path)
    create_folder(config, packed)
    record = read_yaml(config.directory / "study.yaml")
    assert list_differences(change_code(record, commit="0" * 40, dirty=not record["code"]["dirty"]), record) == []


def test_resuming_with_a_larger_budget_is_not_refused(tmp_path, packed):
    create_folder(build(tmp_path), packed)
    larger = build(tmp_path, search={"num_trials": 99, "max_hours": 2.0}, evaluation={"seeds": 1})
    record, differences = compare_manifest(larger, packed)
    assert differences == []
    assert parse(record["config"]) == larger


def test_a_skipped_file_whose_name_is_no_text_is_recorded(tmp_path, image_folder):
    name = os.fsdecode(b"train/REAL/\xff.png")
    (image_folder / name).write_bytes(b"no image")
    config = build(tmp_path)
    create_folder(config, pack(image_folder, tmp_path / "cache", on_bad_image="skip"))
    assert load_manifest(config.directory)["data"]["skipped"] == [r"train/REAL/\udcff.png"]


def test_of_many_skipped_files_the_first_thousand_are_named_and_all_are_counted(tmp_path, packed):
    pack_json = shutil.copytree(packed, tmp_path / "pack") / "pack.json"
    info = json.loads(pack_json.read_text())
    names = [f"train/REAL/{number}.txt" for number in range(200_001)]
    pack_json.write_text(json.dumps(info | {"skipped": names, "reasons": ["is no image"] * len(names)}))
    config = build(tmp_path)
    create_folder(config, pack_json.parent)
    data = load_manifest(config.directory)["data"]
    assert (data["skipped"], data["num_skipped"]) == (names[:1000], 200_001)
    told = _describe_data(config, data)
    assert "Skipped 200001 files that are not images, the first train/REAL/0.txt." in told
    del data["num_skipped"]
    assert "Skipped 1000 files that are not images, the first train/REAL/0.txt." in _describe_data(config, data)

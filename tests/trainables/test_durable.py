import os
from pathlib import Path

import pytest
import torch

from trainables import checkpoint
from trainables.durable import create_file, make_folder, replace_file, sync, write_file


def test_a_file_is_replaced_whole_and_leaves_no_partial(tmp_path):
    path = write_file(tmp_path / "folder" / "file", b"one")
    write_file(path, b"two")
    partial = tmp_path / "partial"
    partial.write_bytes(b"three")
    replace_file(partial, path)
    assert path.read_bytes() == b"three"
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["file"]


@pytest.mark.parametrize("place", ["link", "hardlink"])
def test_a_link_that_waits_under_the_temporary_name_is_not_written_through(tmp_path, place):
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    partial = tmp_path / "file.partial"
    partial.symlink_to(victim) if place == "link" else partial.hardlink_to(victim)
    write_file(path, b"new")
    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()


def test_a_name_that_is_taken_again_meanwhile_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.symlink_to(tmp_path / "victim")
    monkeypatch.setattr(type(path), "unlink", lambda *_, **__: None)  # as if it came back after the removal
    with pytest.raises(FileExistsError):
        create_file(path)
    assert not (tmp_path / "victim").exists()


def test_a_folder_is_made_with_those_above_it_and_once(tmp_path):
    folder = tmp_path / "a" / "b" / "c"
    make_folder(folder)
    make_folder(folder)
    assert folder.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def test_a_folder_that_the_file_system_cannot_sync_is_no_error_but_a_file_is(tmp_path, monkeypatch):
    def refuse(_descriptor):
        raise OSError(22, "Invalid argument")

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")


def test_a_link_under_the_name_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "state.partial"
    outside.write_bytes(b"mine")
    path.symlink_to(outside)
    with create_file(path) as file:
        file.write(b"new")
    assert (outside.read_bytes(), path.read_bytes(), path.is_symlink()) == (b"mine", b"new", False)


def test_a_checkpoint_is_not_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    for suffix in ("", ".partial", ".previous"):
        (tmp_path / f"state{suffix}").symlink_to(outside)
    checkpoint.save(tmp_path / "state", {"weight": torch.ones(1)})
    checkpoint.save(tmp_path / "state", {"weight": torch.zeros(1)})
    assert outside.read_bytes() == b"mine"
    assert checkpoint.load(tmp_path / "state") == {"weight": torch.zeros(1)}

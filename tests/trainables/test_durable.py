import os

import pytest

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

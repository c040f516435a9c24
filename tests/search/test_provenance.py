import pytest

from search.provenance import hash_source, replace_file, write_file


@pytest.fixture
def code(tmp_path):
    for name in ("search/run.py", "trainables/train.py", "trainables/models/cnn.py"):
        write_file(tmp_path / name, f"# {name}\n".encode())
    return tmp_path


@pytest.mark.parametrize("name", ["search/run.py", "trainables/models/cnn.py", "search/new.py"])
def test_any_changed_or_added_module_is_other_code(code, name):
    before = hash_source(code)
    with (code / name).open("a") as file:
        file.write("x = 1\n")
    assert hash_source(code) != before


def test_a_moved_module_is_other_code(code):
    before = hash_source(code)
    (code / "search/run.py").rename(code / "trainables/run.py")
    assert hash_source(code) != before


def test_what_is_no_code_of_the_packages_changes_nothing(code):
    before = hash_source(code)
    write_file(code / "README.md", b"new")
    write_file(code / "search/__pycache__/run.pyc", b"new")
    assert hash_source(code) == before


def test_a_file_is_replaced_whole_and_leaves_no_partial(tmp_path):
    path = write_file(tmp_path / "folder" / "file", b"one")
    write_file(path, b"two")
    partial = tmp_path / "partial"
    partial.write_bytes(b"three")
    replace_file(partial, path)
    assert path.read_bytes() == b"three"
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["file"]


def test_a_file_is_not_written_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    for name in ("file", "file.partial"):
        (tmp_path / name).symlink_to(outside)
    write_file(tmp_path / "file", b"new")
    assert (outside.read_bytes(), (tmp_path / "file").read_bytes()) == (b"mine", b"new")

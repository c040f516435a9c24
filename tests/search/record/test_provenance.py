import json
import os
import shutil
import subprocess
import sys

import pytest

from search.record.provenance import ROOT, describe_commit, hash_source
from trainables.durable import write_file


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


def describe(root, **environment):
    """Return what the code in a folder says of itself, in a process of its own."""
    program = "import json; from search.record.provenance import describe_code; print(json.dumps(describe_code()))"
    alone = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    alone |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **environment}
    found = subprocess.run([sys.executable, "-c", program], cwd=root, env=alone, check=True, capture_output=True)
    code = json.loads(found.stdout)
    return code["commit"], code["dirty"]


@pytest.fixture
def checkout(tmp_path):
    """The packages in a repository of their own, committed."""
    root = tmp_path / "checkout"
    for package in ("search", "trainables"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".gitignore").write_text("__pycache__\n")
    commit(root)
    return root


def commit(root):
    author = ["-c", "user.name=someone", "-c", "user.email=someone@localhost"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message", "code"]):
        subprocess.run(["git", *command], cwd=root, check=True)


def test_a_commit_is_clean_until_a_file_is_changed(checkout):
    commit, dirty = describe(checkout)
    assert len(commit) == 40
    assert dirty is False
    (checkout / "new.py").touch()
    assert describe(checkout) == (commit, True)


def test_where_git_does_not_answer_nothing_is_said_of_changes(checkout):
    assert describe(checkout, PATH="") == (None, None)
    assert describe(checkout, GIT_TEST_ASSUME_DIFFERENT_OWNER="1") == (None, None)
    shutil.rmtree(checkout / ".git")
    assert describe(checkout) == (None, None)


def test_the_commit_of_a_repository_around_the_code_is_not_the_codes(checkout):
    shutil.rmtree(checkout / ".git")
    (checkout.parent / ".gitignore").write_text("checkout\n")
    commit(checkout.parent)
    assert describe(checkout) == (None, None)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ({"commit": "c0ffee" * 6, "dirty": True}, "c0ffeec0ffee with changes"),
        ({"commit": "c0ffee" * 6, "dirty": False}, "c0ffeec0ffee"),
        ({"commit": "c0ffee" * 6, "dirty": None}, "c0ffeec0ffee, perhaps with changes"),
        ({"commit": None, "dirty": None}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_commit_is_told_with_what_is_known_of_changes(code, told):
    assert describe_commit(code) == told


def test_a_repository_that_holds_the_packages_below_its_top_is_not_the_projects(checkout):
    shutil.rmtree(checkout / ".git")
    commit(checkout.parent)
    assert describe(checkout) == (None, None)


def test_the_repository_of_a_hook_that_starts_a_study_is_not_the_projects(checkout, tmp_path):
    ours, _ = describe(checkout)
    other = tmp_path / "other"
    shutil.copytree(checkout, other, ignore=shutil.ignore_patterns(".git"))
    (other / "own.py").touch()
    commit(other)
    assert describe(checkout, GIT_DIR=str(other / ".git"), GIT_INDEX_FILE=str(other / ".git/index")) == (ours, False)

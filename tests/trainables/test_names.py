import sys

import pytest

from trainables import names
from trainables.errors import InputError
from trainables.names import import_own, is_own, shorten


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(names, "IMPORTED", {})
    yield tmp_path
    sys.modules.pop("own_names", None)


def test_a_name_is_one_of_ours_or_of_a_module_in_the_folder(folder):
    (folder / "own_names.py").write_text("class Thing: pass\n")
    assert import_own("own_names:Thing", str(folder), "key").__name__ == "Thing"
    assert (is_own("a"), is_own("own_names:Thing"), shorten("own_names:Thing"), shorten("a")) == (
        False,
        True,
        "Thing",
        "a",
    )


@pytest.mark.parametrize("name", [":Thing", "own_names:", "own_names:Other", "absent_module:Thing", "own_names:a.b"])
def test_a_name_that_stands_for_nothing_is_refused_in_a_sentence(folder, name):
    (folder / "own_names.py").write_text("class Thing: pass\n")
    with pytest.raises(InputError, match=r"^search.key = '"):
        import_own(name, str(folder), "search.key")


@pytest.mark.parametrize("code", ["1 / 0", "raise KeyError('x')", "import", "raise SystemExit(3)"])
def test_a_module_that_fails_on_import_is_refused_in_a_sentence(folder, code):
    (folder / "own_names.py").write_text(code)
    with pytest.raises(InputError):
        import_own("own_names:Thing", str(folder), "search.key")


def test_a_module_of_the_users_folder_replaces_no_installed_one(folder):
    (folder / "json.py").write_text("x = 1")
    sys.modules.pop("json", None)
    assert not hasattr(import_own("json:dumps", str(folder), "key"), "x")

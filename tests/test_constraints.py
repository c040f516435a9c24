"""The pinned dependencies: each file that `make install` and `make cluster` take is one whose hash is written down."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"constraints.txt": ["dev", "database"], "constraints-cluster.txt": ["cluster"]}


def read_pins(name):
    """Return version and number of hashes by the name of the package; a line of another kind is an error."""
    lines = (ROOT / name).read_text().replace("\\\n", "").splitlines()
    pins = {}
    for line in lines:
        if not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9-]+)==(\S+)( ;[^;#]*?)?((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
            assert match, line
            assert match[1] not in pins
            pins[match[1]] = match[2]
    return pins


def list_requirements(*extras):
    """Return what the project asks for with some extras, those that these name included."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(text)
            own = requirement.name == PROJECT["name"]
            found += list_requirements(*requirement.extras) if own else [requirement]
    return found


@pytest.mark.parametrize("name", EXTRAS)
def test_all_that_the_project_asks_for_is_pinned_within_its_range_and_with_hashes(name):
    pins = read_pins(name)
    for requirement in list_requirements(*EXTRAS[name]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_a_developer_and_a_cluster_have_the_same_versions():
    here, there = map(read_pins, EXTRAS)
    assert {name: version for name, version in there.items() if here.get(name, version) != version} == {}


def test_make_installs_nothing_without_a_hash_but_the_project_itself():
    text = (ROOT / "Makefile").read_text()
    installs = re.findall(r"^\t\$\(PIP\) (.+)$", text, re.MULTILINE)
    assert len(installs) == 4
    assert all(
        line.startswith(("--require-hashes --requirement ", "--no-deps --no-build-isolation ")) for line in installs
    )
    assert text.count("pip install") == 1

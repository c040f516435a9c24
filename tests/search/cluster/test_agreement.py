"""What a process is held against before its first trial, without Ray; with it: test_preflight.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search.cluster import agreement
from search.cluster.agreement import NodeError, Terms, agree, describe_driver, describe_versions, has_arrived
from search.record.object_store import Store

ROOT = Path(__file__).parents[3]
CHANGED_UNDER_WAY = """
import sys
from pathlib import Path
from search.cluster.agreement import NodeError, Terms, agree, describe_driver, describe_versions
before = dict(describe_driver())
path = Path(sys.argv[1]) / "search" / "task.py"
path.write_text(path.read_text() + "# another version\\n")
assert describe_driver() == before, "the driver runs what it began with"
now = describe_versions()
try:
    agree(Terms(versions=tuple(before.items()), place="any"), "10.0.0.7", arrives=None, reaches=None)
except NodeError as error:
    assert str(error) == (
        f"node 10.0.0.7 has project {now['project']} and the driver {before['project']}: install the same on both"
    )
    print("refused")
"""


@pytest.fixture
def hasty(monkeypatch):
    """Let nobody wait for what does not come."""
    monkeypatch.setattr(agreement, "PATIENCE_S", 0.0)


@pytest.fixture
def study(tmp_path):
    """The folder of a study."""
    (tmp_path / "study.yaml").write_text("name: x")
    return tmp_path


def build_terms(place):
    return Terms(versions=tuple(describe_driver().items()), place=str(place))


def refuse(*_):
    pytest.fail("the driver's node was asked")


def test_code_that_was_changed_since_the_driver_began_is_refused(tmp_path):
    for package in ("search", "trainables"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", CHANGED_UNDER_WAY, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_a_node_with_another_version_of_a_package_is_refused(study):
    versions = describe_versions() | {"torch": "1.0"}
    with pytest.raises(NodeError, match=r"^node 10\.0\.0\.7 has torch .* and the driver 1\.0: install the same"):
        agree(Terms(versions=tuple(versions.items()), place=str(study)), "10.0.0.7", arrives=refuse, reaches=refuse)


@pytest.mark.usefixtures("hasty")
def test_a_node_without_the_shared_folder_is_refused_and_does_not_make_it(tmp_path):
    missing = tmp_path / "shared" / "x"
    with pytest.raises(NodeError, match=r"results: node 10\.0\.0\.7 does not share .*/shared/x \(No such file"):
        agree(build_terms(missing), "10.0.0.7", arrives=refuse, reaches=refuse)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("hasty")
def test_a_node_with_a_folder_of_its_own_under_that_name_is_refused(study):
    def arrives(path, content):
        return has_arrived(path.replace(str(study), "/nowhere"), content)

    with pytest.raises(NodeError, match="does not arrive on the driver's node"):
        agree(build_terms(study), "10.0.0.7", arrives=arrives, reaches=refuse)
    assert [path.name for path in study.iterdir()] == ["study.yaml"]


def test_a_process_is_asked_once_and_leaves_nothing(study):
    asked = []

    def arrives(path, content):
        asked.append(path)
        return has_arrived(path, content)

    for _ in range(2):
        agree(build_terms(study), "10.0.0.7", arrives=arrives, reaches=refuse)
    assert len(asked) == 1
    assert [path.name for path in study.iterdir()] == ["study.yaml"]


def test_a_folder_that_is_mounted_late_is_waited_for(monkeypatch, study):
    monkeypatch.setattr(agreement, "PAUSE_S", 0.0)
    answers = iter([False, False, True])
    agree(build_terms(study), "10.0.0.7", arrives=lambda *_: next(answers), reaches=refuse)
    assert list(answers) == []


@pytest.mark.usefixtures("hasty")
def test_a_node_that_alone_cannot_use_the_store_is_refused(bucket):
    """Where the driver's node cannot either, the store is away, which a search sits out."""
    agree(build_terms(f"s3://{bucket}/results/x"), "10.0.0.7", arrives=refuse, reaches=refuse)
    assert Store(f"s3://{bucket}/results").list() == {}
    elsewhere = build_terms(f"s3://no-{bucket}/results/x")
    with pytest.raises(NodeError, match=r"does not share s3://no-.*give it the credentials too"):
        agree(elsewhere, "10.0.0.7", arrives=refuse, reaches=lambda _: True)
    agree(elsewhere, "10.0.0.7", arrives=refuse, reaches=lambda _: False)

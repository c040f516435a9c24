"""Checks of nodes and processes, without Ray and on a real Ray of one node; several real nodes are in tests/cluster."""

import dataclasses
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
from rich.console import Console

from search.cluster import checks
from search.cluster.checks import (
    Requirements,
    _await,
    check_nodes,
    check_process,
    describe_driver,
    describe_versions,
    examine,
    find_difference,
)
from search.cluster.job import NodeError
from search.cluster.launch import build_delivery
from search.cluster.nodes import Node, list_nodes
from search.cluster.probe import Probe, open_scratch
from search.config.load import parse
from search.config.schema import MANIFEST
from search.datasets.sources import open_packed
from search.record.object_store import Store
from trainables.config import ResNet50Config
from trainables.errors import InputError
from trainables.layout import Settings
from trainables.models.model import build_model
from trainables.models.resnet50.weights import locate_imagenet
from trainables.pack import pack
from trainables.pack_info import verify

ROOT = Path(__file__).parents[3]
CHANGED_UNDER_WAY = """
import sys
from pathlib import Path
from search.cluster.checks import Requirements, check_process, describe_driver, describe_versions
from search.cluster.job import NodeError
before = dict(describe_driver())
path = Path(sys.argv[1]) / "search" / "cluster" / "job.py"
path.write_text(path.read_text() + "# another version\\n")
assert describe_driver() == before, "the driver runs what it began with"
now = describe_versions()
try:
    check_process(Requirements(versions=tuple(before.items()), folder="any"), "10.0.0.7", arrives=None, reaches=None)
except NodeError as error:
    assert str(error) == (
        f"node 10.0.0.7 has code {now['code']} and the driver {before['code']}: install the same on both"
    )
    print("refused")
"""


@pytest.fixture
def hasty(monkeypatch):
    """Wait for no results that become usable later."""
    monkeypatch.setattr(checks, "PATIENCE_S", 0.0)


@pytest.fixture
def study(tmp_path):
    """The folder of a study."""
    (tmp_path / "study.yaml").write_text("name: x")
    return tmp_path


def build_terms(place):
    return Requirements(versions=tuple(describe_driver().items()), folder=str(place))


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
        check_process(
            Requirements(versions=tuple(versions.items()), folder=str(study)),
            "10.0.0.7",
            arrives=refuse,
            reaches=refuse,
        )


@pytest.mark.usefixtures("hasty")
def test_a_node_without_the_shared_folder_is_refused_and_does_not_make_it(tmp_path):
    missing = tmp_path / "shared" / "x"
    with pytest.raises(NodeError, match=r"results: node 10\.0\.0\.7 does not share .*/shared/x \(No such file"):
        check_process(build_terms(missing), "10.0.0.7", arrives=refuse, reaches=refuse)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("hasty")
def test_a_node_with_a_folder_of_its_own_under_that_name_is_refused(study):
    def arrives(probe):
        return dataclasses.replace(probe, folder="/nowhere").has_arrived()

    with pytest.raises(NodeError, match="does not arrive on the driver's node"):
        check_process(build_terms(study), "10.0.0.7", arrives=arrives, reaches=refuse)
    assert [path.name for path in study.iterdir()] == ["study.yaml"]


def test_a_process_is_asked_once_and_leaves_nothing(study):
    asked = []

    def arrives(probe):
        asked.append(probe)
        return probe.has_arrived()

    for _ in range(2):
        check_process(build_terms(study), "10.0.0.7", arrives=arrives, reaches=refuse)
    assert len(asked) == 1
    assert [path.name for path in study.iterdir()] == ["study.yaml"]


def test_a_folder_that_is_mounted_late_is_waited_for(monkeypatch, study):
    monkeypatch.setattr(checks, "PAUSE_S", 0.0)
    answers = iter([False, False, True])
    check_process(build_terms(study), "10.0.0.7", arrives=lambda *_: next(answers), reaches=refuse)
    assert list(answers) == []


@pytest.mark.usefixtures("hasty")
def test_a_single_node_that_cannot_use_the_store_is_refused(bucket):
    """Where the driver's node cannot either, the store is away, which a search survives."""
    study = f"s3://{bucket}/results/x"
    Store(study).write(MANIFEST, b"name: x")
    check_process(build_terms(study), "10.0.0.7", arrives=Probe.has_arrived, reaches=refuse)
    assert list(Store(f"s3://{bucket}/results").list()) == ["x/study.yaml"]
    elsewhere = build_terms(f"s3://no-{bucket}/results/x")
    with pytest.raises(NodeError, match=r"does not share s3://no-.*give it the credentials too"):
        check_process(elsewhere, "10.0.0.7", arrives=refuse, reaches=lambda _: True)
    check_process(elsewhere, "10.0.0.7", arrives=refuse, reaches=lambda _: False)


@pytest.mark.usefixtures("hasty")
def test_a_node_with_a_store_of_its_own_under_that_name_is_refused(bucket):
    study = f"s3://{bucket}/results/x"
    Store(study).write(MANIFEST, b"name: x")
    with pytest.raises(NodeError, match="does not arrive on the driver's node"):
        check_process(build_terms(study), "10.0.0.7", arrives=lambda _: False, reaches=lambda _: True)


@pytest.fixture(scope="module")
def node():
    """A node with one core."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield list_nodes()[0]
    ray.shutdown()


def build_config(folder, space=None, **data):
    cluster = {"address": "auto"}
    return parse({"name": "x", "results": str(folder), "cluster": cluster, "data": data, "space": space or {}})


def offer(config, packed):
    """Offer a pack to the trials of a study that has begun."""
    config.directory.mkdir()
    (config.directory / "study.yaml").write_text("name: x")
    return build_delivery(config, packed)


@pytest.mark.ray
def test_every_node_is_shown_with_its_versions_and_nothing_is_left_in_the_results(node, tmp_path):
    shown = io.StringIO()
    check_nodes(build_config(tmp_path / "results"), [node], Console(file=shown, width=200))
    for word in (node.address, *describe_versions(), *describe_versions().values()):
        assert word in shown.getvalue()
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.ray
def test_results_that_cannot_be_written_are_refused(node, tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(InputError, match="results: cannot write into"):
        check_nodes(build_config(tmp_path / "results"), [node], Console(file=io.StringIO()))


@pytest.mark.ray
def test_a_node_that_vanishes_while_it_is_asked_is_named_as_such(node, tmp_path):
    gone = Node(id="ab" * 28, address="10.0.0.9", cpus=4, gpus=0)
    with pytest.raises(InputError, match=r"^node 10\.0\.0\.9 vanished while it was checked: start again when enough"):
        check_nodes(build_config(tmp_path / "results"), [node, gone], Console(file=io.StringIO()))


@pytest.mark.ray
def test_a_node_that_does_not_answer_in_time_is_not_told_to_install_anything(node, monkeypatch):
    monkeypatch.setattr(checks, "TIMEOUT_S", 0.1)
    never = ray.remote(examine).options(resources={"what no node has": 1}).remote(build_terms("any"))
    with pytest.raises(
        InputError, match=r"did not answer within 0\.1 seconds: check its load, its disk and its network"
    ):
        _await(node, never)
    ray.cancel(never)


@pytest.mark.ray
def test_a_node_where_the_project_does_not_run_is_told_to_install_it(node):
    @ray.remote
    def reach_in_vain():
        import a_package_of_another_version  # noqa: F401

    with pytest.raises(
        InputError, match=r"cannot run this project \(ModuleNotFoundError: .*\): install the same versions there"
    ):
        _await(node, reach_in_vain.remote())


@pytest.mark.ray
def test_a_node_whose_process_ends_is_told_to_look_at_its_memory(node):
    @ray.remote(max_retries=0)
    def end():
        import os

        os._exit(1)

    with pytest.raises(InputError, match=r"lost the process that had to answer \(.*\): check its memory and Ray's"):
        _await(node, end.remote())


def test_a_node_with_another_folder_of_the_name_is_found_out(tmp_path):
    with open_scratch(str(tmp_path)) as folder:
        requirements = build_terms(folder)
        assert examine(requirements).probe.has_arrived()
        (tmp_path / "own").mkdir()
        own = dataclasses.replace(requirements, folder=str(tmp_path / "own"))
        assert (examine(own).problem, examine(own).probe) == ("No such file or directory", None)
        (tmp_path / "own" / MANIFEST).touch()
        assert not dataclasses.replace(examine(own).probe, folder=requirements.folder).has_arrived()
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_node_reads_and_writes_the_store_and_nothing_is_left_there(bucket):
    results = f"s3://{bucket}/results"
    with open_scratch(results) as folder:
        requirements = build_terms(folder)
        condition = examine(requirements)
        assert condition.problem is None
        assert condition.probe.has_arrived()
        assert not dataclasses.replace(condition.probe, content=b"other").has_arrived()
        other = examine(dataclasses.replace(requirements, folder=f"{results}/other"))
        assert other.problem == "study.yaml, which the driver wrote, is not there"
    assert Store(results).list() == {}
    problem = examine(build_terms(f"s3://no-{bucket}/results")).problem
    assert problem.endswith("create the bucket, or correct its name")


def test_a_node_with_other_versions_is_named_with_both():
    mine = describe_versions()
    assert find_difference(mine, mine) is None
    assert find_difference(mine, mine | {"torch": "1.0"}) == f"torch 1.0 and the driver {mine['torch']}"


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_a_node_without_the_pack_is_brought_it_once_and_whole(packed, tmp_path):
    """The node here is a second process that does not see the driver's cache, as far as the names of files go."""
    cache = tmp_path / "cache"
    delivery = offer(build_config(tmp_path, cache=str(cache)), packed)

    @ray.remote
    def fetch():
        return dataclasses.replace(delivery, pack=f"/nowhere/{packed.name}")()

    assert ray.get([fetch.remote(), fetch.remote()]) == [str(cache / packed.name)] * 2
    verify(cache / packed.name)
    assert {path.name for path in cache.iterdir()} == {packed.name, "lock"}
    assert delivery() == str(packed)


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_a_node_without_images_from_elsewhere_is_brought_them_like_the_pack(image_folder, tmp_path):
    packed = pack(image_folder / "test", tmp_path / "driver", Settings(classes=("FAKE", "REAL")))
    delivery = offer(build_config(tmp_path, cache=str(tmp_path / "cache")), packed)

    @ray.remote
    def fetch():
        (split,) = open_packed(dataclasses.replace(delivery, pack=f"/nowhere/{packed.name}"), (0, 9))
        return str(split.files.images), split.indices.tolist()

    assert ray.get(fetch.remote()) == (str(tmp_path / "cache" / packed.name / "source.images"), list(range(1, 9)))
    verify(tmp_path / "cache" / packed.name)


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_a_process_with_other_code_trains_nothing_and_fails_no_trial(packed, tmp_path):
    """The driver's code is another one here, which is the same to a process as code of its own that is."""
    delivery = offer(build_config(tmp_path), packed)
    versions = (*delivery.requirements.versions[:-1], ("code", "other"))
    requirements = dataclasses.replace(delivery.requirements, versions=versions)

    @ray.remote
    def train():
        from search.cluster.worker import run_job

        return list(run_job(dataclasses.replace(delivery, requirements=requirements), None, None))

    with pytest.raises(NodeError, match=r"has code .* and the driver other: install the same on both"):
        ray.get(train.remote())


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """What the driver's node has in place of torchvision's file: a real state dict with one number changed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "driver"))
    state = build_model(ResNet50Config()).state_dict() | {"fc.weight": torch.zeros(1000, 2048)}
    state |= {"fc.bias": torch.zeros(1000), "bn1.weight": torch.full((64,), 0.25)}
    locate_imagenet().parent.mkdir(parents=True)
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("fc.0")}, locate_imagenet())
    return locate_imagenet()


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_a_node_without_the_imagenet_weights_is_brought_them_once_and_starts_from_them(packed, weights, tmp_path):
    space = {"resnet50": {"weights": {"choice": ["none", "imagenet"]}}}
    delivery = offer(build_config(tmp_path, space=space), packed)
    elsewhere = tmp_path / "elsewhere"

    @ray.remote
    def start():
        import os

        os.environ["TORCH_HOME"] = str(elsewhere)
        delivery()
        return build_model(ResNet50Config(weights="imagenet")).state_dict()["bn1.weight"].unique().tolist()

    assert ray.get([start.remote(), start.remote()]) == [[0.25]] * 2
    assert {path.name for path in (elsewhere / "hub/checkpoints").iterdir()} == {weights.name, "lock"}
    assert (elsewhere / "hub/checkpoints" / weights.name).read_bytes() == weights.read_bytes()


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_weights_that_no_trial_starts_from_are_not_sent(packed, weights, tmp_path):
    assert weights.exists()
    assert build_delivery(build_config(tmp_path, space={"resnet50": {"weights": "none"}}), packed).weights is None


@pytest.mark.ray
def test_on_one_machine_nothing_is_sent(packed, tmp_path):
    config = parse({"name": "x", "data": {"cache": str(tmp_path)}})
    assert build_delivery(config, packed)() == str(packed)

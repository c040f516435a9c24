"""What nodes are asked, on a real Ray of one node; several real nodes are in tests/cluster."""

import dataclasses
import io

import pytest
import ray
import torch
from rich.console import Console

from search.cluster import preflight
from search.cluster.agreement import NodeError, describe_versions, find_difference
from search.cluster.nodes import Node, list_nodes
from search.cluster.preflight import Folder, _await, check_nodes, open_board, reach
from search.cluster.transfer import build_delivery
from search.config.load import parse
from search.record.object_store import Store
from trainables.errors import InputError
from trainables.models.model import build_model
from trainables.models.resnet50.config import ResNet50Config
from trainables.models.resnet50.weights import locate_imagenet
from trainables.pack_info import verify


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
    with pytest.raises(InputError, match=r"^node 10\.0\.0\.9 vanished while it was asked: start again, when enough"):
        check_nodes(build_config(tmp_path / "results"), [node, gone], Console(file=io.StringIO()))


@pytest.mark.ray
def test_a_node_that_does_not_answer_in_time_is_not_told_to_install_anything(node, monkeypatch):
    monkeypatch.setattr(preflight, "TIMEOUT_S", 0.1)
    never = ray.remote(reach).options(resources={"what no node has": 1}).remote(Folder(""), "node", b"")
    with pytest.raises(
        InputError, match=r"did not answer within 0\.1 seconds: look at its load, its disk and its network"
    ):
        _await(node, never)
    ray.cancel(never)


@pytest.mark.ray
def test_a_node_where_the_project_does_not_run_is_told_to_install_it(node):
    @ray.remote
    def reach_in_vain():
        import a_package_of_another_version  # noqa: F401

    with pytest.raises(
        InputError, match=r"cannot run this project \(ModuleNotFoundError: .*\): install the same there"
    ):
        _await(node, reach_in_vain.remote())


@pytest.mark.ray
def test_a_node_whose_process_ends_is_told_to_look_at_its_memory(node):
    @ray.remote(max_retries=0)
    def end():
        import os

        os._exit(1)

    with pytest.raises(
        InputError, match=r"lost the process that was to answer \(.*\): look at its memory and at Ray's"
    ):
        _await(node, end.remote())


def test_a_node_with_another_folder_of_the_name_is_found_out(tmp_path):
    (tmp_path / "driver").write_text("what lies there")
    assert (
        reach(Folder(str(tmp_path)), "node", b"what was sent").problem == "what the driver writes does not arrive there"
    )
    assert reach(Folder(str(tmp_path / "nowhere")), "node", b"what was sent").problem == "No such file or directory"


def test_a_node_reads_and_writes_the_store_and_nothing_is_left_there(bucket):
    results = f"s3://{bucket}/results"
    with open_board(results) as board:
        board.write("driver", b"secret")
        assert reach(board, "node", b"secret").problem is None
        assert board.read("node") == b"secret"
        assert reach(board, "node", b"other").problem == "what the driver writes does not arrive there"
    assert Store(results).list() == {}
    problem = reach(Store(f"s3://no-{bucket}/results"), "node", b"secret").problem
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
def test_a_process_with_other_code_trains_nothing_and_fails_no_trial(packed, tmp_path):
    """The driver's code is another one here, which is the same to a process as code of its own that is."""
    delivery = offer(build_config(tmp_path), packed)
    terms = dataclasses.replace(delivery.terms, versions=(*delivery.terms.versions[:-1], ("project", "other")))

    @ray.remote
    def train():
        from search.cluster.worker import run_trial

        return list(run_trial(dataclasses.replace(delivery, terms=terms), None))

    with pytest.raises(NodeError, match=r"has project .* and the driver other: install the same on both"):
        ray.get(train.remote())


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """What lies on the driver's node in place of torchvision's file: a real state dict with one number changed."""
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

"""What nodes are asked, on a real Ray of one node; several real nodes are in tests/cluster."""

import io

import pytest
import ray
from rich.console import Console

from search.cluster.delivery import build_delivery
from search.cluster.nodes import list_nodes
from search.cluster.preflight import Folder, check_nodes, describe_versions, find_difference, open_board, reach
from search.cluster.store import Store
from search.config import parse
from trainables.data import verify
from trainables.errors import InputError


@pytest.fixture(scope="module")
def node():
    """A node with one core."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield list_nodes()[0]
    ray.shutdown()


def build_config(folder, **data):
    return parse({"name": "x", "results": str(folder), "cluster": {"address": "auto"}, "data": data})


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
    delivery = build_delivery(build_config(tmp_path, cache=str(cache)), packed)

    @ray.remote
    def fetch():
        import dataclasses

        return dataclasses.replace(delivery, pack=f"/nowhere/{packed.name}")()

    assert ray.get([fetch.remote(), fetch.remote()]) == [str(cache / packed.name)] * 2
    verify(cache / packed.name)
    assert {path.name for path in cache.iterdir()} == {packed.name, "lock"}
    assert delivery() == str(packed)


@pytest.mark.ray
def test_on_one_machine_nothing_is_sent(packed, tmp_path):
    config = parse({"name": "x", "data": {"cache": str(tmp_path)}})
    assert build_delivery(config, packed)() == str(packed)

"""What fits on which nodes, and what an autoscaler is asked for."""

import pytest
import ray
from ray.util import placement_group_table, remove_placement_group

from search.cluster.nodes import Node, _ask_for_nodes, clear_nodes, connect, count_slots, find_problem
from search.config.load import parse
from search.config.schema import ResourceConfig
from trainables.errors import InputError


def make_nodes(*sizes):
    return [Node(id=f"{n}", address=f"10.0.0.{n}", cpus=cpus, gpus=gpus) for n, (cpus, gpus) in enumerate(sizes, 1)]


def build_config(cluster=None, **resources):
    return parse({"name": "x", "resources": resources, "cluster": {"address": "auto", **(cluster or {})}})


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "count"),
    [
        (1, 0, (4, 0), 4),
        (3, 0, (4, 0), 1),
        (8, 0, (4, 0), 0),
        (0.1, 0, (1, 0), 10),
        (1, 0.25, (16, 2), 8),
        (1, 0.25, (4, 2), 4),
        (1, 0.6, (16, 2), 2),
        (2, 1, (16, 2), 2),
        (1, 2, (16, 4), 2),
        (0, 0.5, (0, 1), 2),
        (1, 0.5, (16, 0), 0),
    ],
)
def test_a_node_holds_as_many_trials_as_its_scarcest_resource(cpus, gpus, node, count):
    assert make_nodes(node)[0].count(ResourceConfig(cpus=cpus, gpus=gpus)) == count


def test_resources_left_over_on_two_nodes_hold_no_trial():
    config = build_config(cnn={"cpus": 3}, resnet50={"cpus": 4})
    assert count_slots(config, make_nodes((5, 0), (4, 0))) == 2


def test_every_node_counts_for_the_smallest_trial_that_it_holds():
    config = build_config(cnn={"cpus": 1, "gpus": 0.25}, resnet50={"cpus": 2, "gpus": 1})
    assert count_slots(config, make_nodes((0, 0), (4, 1), (16, 4))) == 4 + 16


def test_trials_wait_for_the_nodes_that_may_still_come():
    config = build_config({"max_nodes": 8}, cnn={"gpus": 0.25}, resnet50={"gpus": 1})
    assert count_slots(config, make_nodes((0, 0), (4, 1))) == 8 * 4


def test_the_number_in_the_study_goes_before_what_fits():
    config = parse({"name": "x", "search": {"max_concurrent": 3}, "cluster": {"max_nodes": 8}})
    assert count_slots(config, make_nodes((64, 0))) == 3


def test_a_trial_must_fit_one_node_not_the_sum_of_them():
    config = build_config(cnn={"cpus": 6})
    assert "resources.cnn: a trial asks for 6 CPUs" in find_problem(config, make_nodes((4, 0), (4, 0)))
    assert find_problem(config, make_nodes((4, 0), (8, 0))) is None


def test_a_cluster_without_a_worker_that_came_up_is_named_as_the_reason():
    config = build_config({"max_nodes": 8}, cnn={"cpus": 1, "gpus": 0.25}, resnet50={"cpus": 2, "gpus": 1})
    problem = find_problem(config, make_nodes((0, 0)))
    assert "but after 300 seconds the nodes that are up have 0 CPUs and 0 GPUs" in problem
    assert "check `ray status` or raise cluster.wait_s" in problem


def test_nodes_on_which_no_trial_fits_do_not_count_as_up():
    config = build_config({"min_nodes": 2}, cnn={"gpus": 1}, resnet50={"gpus": 1})
    problem = find_problem(config, make_nodes((8, 0), (8, 1)))
    assert problem.startswith("cluster.min_nodes = 2: after 300 seconds a trial fits on 1 of 2 nodes (10.0.0.2)")
    assert find_problem(config, make_nodes((8, 0), (8, 1), (8, 1))) is None


def test_a_local_search_that_asks_for_two_nodes_is_told_that_there_is_one():
    problem = find_problem(build_config({"min_nodes": 2, "address": "local"}), make_nodes((64, 0)))
    assert (
        problem == "cluster.min_nodes = 2: a local Ray has one node: set it to 1, or set cluster.address to a cluster"
    )


@pytest.mark.ray
@pytest.mark.usefixtures("two_cores")
def test_shares_of_one_gpu_do_not_count_for_the_nodes_that_are_wanted():
    """Three trials of a quarter GPU would fit one machine: three machines are asked for."""
    wanted = build_config({"min_nodes": 3}, cnn={"cpus": 1, "gpus": 0.25}, resnet50={"cpus": 2, "gpus": 1})
    group = _ask_for_nodes(wanted)
    asked = placement_group_table(group)
    remove_placement_group(group)
    assert (asked["strategy"], asked["state"]) == ("STRICT_SPREAD", "PENDING")
    assert list(asked["bundles"].values()) == [{"CPU": 1.0, "GPU": 0.25}] * 3


@pytest.mark.ray
@pytest.mark.usefixtures("two_cores")
def test_checkpoints_of_killed_workers_are_deleted_except_those_of_trials_that_continue(tmp_path):
    names = ("trial-1.ckpt", "trial-1.ckpt.previous", "trial-12.ckpt", "trial-12.ckpt.partial", "other.txt")
    for name in names:
        (tmp_path / name).touch()
    ray.get(
        ray.remote(lambda: None).remote()
    )  # the first worker of a new Ray loads torch, and `clear_nodes` waits 10 s
    clear_nodes(str(tmp_path), {1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.txt", "trial-1.ckpt", "trial-1.ckpt.previous"]


@pytest.mark.parametrize("address", ["foo", "ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_an_address_of_another_kind_is_refused(address):
    with (
        pytest.raises(InputError, match="is neither local, auto nor the head's HOST:PORT"),
        connect(build_config({"address": address})),
    ):
        pass

"""Which type of node Ray's first autoscaler takes, by Ray's own functions."""

import functools
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler.node_launch_exception import NodeLaunchException

from search.cluster.autoscaler import prefer_available

CLUSTER = Path(__file__).parents[3] / "cluster.yaml"
GPUS = {"workers-2-g6": "L4", "workers-1-g5": "A10G"}
TRIALS = [{"CPU": 1, "GPU": 0.25}] * 12


def load_types():
    """Return the node types of the cluster file with the resources that AWS reports to Ray."""
    types = yaml.safe_load(CLUSTER.read_text())["available_node_types"]
    for name, gpu in GPUS.items():
        types[name]["resources"] = {"CPU": 4, "GPU": 1, "memory": 12 * 2**30, f"accelerator_type:{gpu}": 1}
    return types


def refuse(*names, seconds_ago=0):
    """Return what Ray records when the cloud has no nodes of some types."""
    tracker = NodeProviderAvailabilityTracker()
    error = NodeLaunchException("InsufficientInstanceCapacity", "There is no Spot capacity.", None)
    for name in names:
        tracker.update_node_availability(name, int(time.time()) - seconds_ago, error)
    return tracker.summary()


def choose(summary, scorer=prefer_available, trials=TRIALS, existing=None):
    """Return how many nodes of each type are started for trials that wait."""
    scorer = functools.partial(scorer, node_availability_summary=summary)
    nodes, _ = get_nodes_for(load_types(), existing or {}, "head", 8, trials, scorer)
    return dict(nodes)


def test_ray_itself_asks_for_what_was_refused_again():
    assert choose(refuse("workers-2-g6"), _default_utilization_scorer) == {"workers-2-g6": 3}


def test_the_second_type_is_taken_when_the_preferred_one_was_refused():
    assert choose(refuse("workers-2-g6")) == {"workers-1-g5": 3}


@pytest.mark.parametrize("names", [(), ("workers-1-g5",), ("workers-2-g6", "workers-1-g5")])
def test_the_preferred_type_is_taken_when_nothing_or_everything_or_the_other_one_was_refused(names):
    assert choose(refuse(*names)) == {"workers-2-g6": 3}


def test_a_refusal_counts_for_half_an_hour():
    assert choose(refuse("workers-2-g6", seconds_ago=29 * 60)) == {"workers-1-g5": 3}
    assert choose(refuse("workers-2-g6", seconds_ago=31 * 60)) == {"workers-2-g6": 3}


def test_what_was_refused_is_asked_for_when_there_are_as_many_of_the_other_type_as_may_be():
    assert choose(refuse("workers-2-g6"), existing={"workers-1-g5": 6}) == {"workers-1-g5": 2, "workers-2-g6": 1}


def test_a_trial_that_fits_no_type_starts_nothing():
    assert choose(refuse(), trials=[{"CPU": 1, "GPU": 2}]) == {}


def test_the_autoscalers_process_is_not_made_to_load_the_search():
    script = (
        "import sys, ray.autoscaler._private.monitor; before = set(sys.modules); import search.cluster.autoscaler;"
        "print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CLUSTER.parent, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {"search", "search.cluster", "search.cluster.autoscaler"}

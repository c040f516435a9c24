"""Starts or joins Ray, without its output, and waits until every trial fits on a node."""

import dataclasses
import logging
import os
import socket
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from pathlib import Path

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.cluster.liveness import watch_ray
from search.cluster.local import ARGUMENTS, explain_start, keep_private, leave_out_services
from search.cluster.signals import restore_handlers
from search.config.schema import ClusterConfig, ResourceConfig, StudyConfig
from trainables.errors import InputError
from trainables.names import shorten

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
}
"""Settings that turn off Ray's own tables, loggers, snapshots and working folders, and tracebacks of workers that
arrive after the end of the search. The journal and the live view replace them."""
CLEAR_S = 10.0
"""Seconds that nodes have to delete checkpoints; a node that does not answer keeps its checkpoints."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster."""

    id: str
    """Ray's identifier of the node, in hexadecimal digits."""
    address: str
    cpus: float
    """Cores that Ray may grant there."""
    gpus: float
    """GPUs that Ray may grant there."""

    def count(self, granted: ResourceConfig) -> int:
        """Return how many trials with these resources run here at once; a share of a GPU is on one GPU."""
        counts = [int(self.cpus / granted.cpus + 1e-9)] if granted.cpus else []
        if 0 < granted.gpus < 1:
            counts.append(int(self.gpus) * int(1 / granted.gpus + 1e-9))
        elif granted.gpus:
            counts.append(int(self.gpus / granted.gpus))
        return min(counts)


@contextmanager
def connect(config: StudyConfig) -> Iterator[list[Node]]:
    """Start or join Ray for the block and yield the nodes that are up.

    Ray prints messages of its nodes to standard output, so standard output is discarded in the block; open a console
    before it.

    Raises:
        InputError: If no cluster answers at the address, Ray cannot start on this machine, too few nodes come up in
            time, or a trial fits none of them.
    """
    os.environ.update(QUIET)
    _check_answer(config.cluster.address)
    if ray.is_initialized():  # in a worker that imports the user's script
        raise InputError('call search() below `if __name__ == "__main__":`, because workers import this module too')
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        _join(config.cluster, stack)
        try:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            with watch_ray():
                yield _wait_for_nodes(config)
        finally:
            ray.shutdown()


def _join(cluster: ClusterConfig, stack: ExitStack) -> None:
    """Start a local Ray, private until the stack is closed, or join the cluster's."""
    local = cluster.address == "local"
    try:
        folder = stack.enter_context(keep_private()) if local else None
        with restore_handlers(), leave_out_services() if local else nullcontext():  # Ray replaces SIGTERM's handler
            ray.init(
                address=cluster.address,
                num_cpus=cluster.cpus if local else None,
                include_dashboard=False if local else None,
                _node_ip_address="127.0.0.1" if local else None,
                _temp_dir=folder,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **(ARGUMENTS if local else {}),
            )
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        has_token = os.environ.get("RAY_AUTH_MODE") == "token"
        cure = "" if has_token else "; if it demands a token, set RAY_AUTH_MODE=token"
        raise InputError(f"cluster.address: no Ray cluster answers at {cluster.address!r}{cure}") from error
    except Exception as error:
        if local:  # Ray raises errors of many classes if it cannot start
            raise InputError(explain_start(error)) from error
        if not isinstance(error, RuntimeError):  # raised if Python or Ray have another version than the cluster's
            raise
        raise InputError(f"cluster.address: {cluster.address!r} cannot be joined: {error}") from error


def _check_answer(address: str) -> None:
    """Check that a program listens at HOST:PORT; Ray itself would wait for minutes."""
    if address in ("local", "auto"):
        return
    if "://" in address or ":" not in address:
        cure = "on a laptop, `ray job submit` hands the command to the head" if address.startswith("ray://") else ""
        raise InputError(
            f"cluster.address: {address!r} is neither local, auto nor the head's HOST:PORT{cure and f'; {cure}'}"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"cluster.address: no Ray cluster answers at {address!r}") from error


def count_slots(config: StudyConfig, nodes: Sequence[Node]) -> int:
    """Return how many trials run at once.

    That is `search.max_concurrent`, or the number of the smallest trials that fit on the nodes. Nodes that may still
    come (`cluster.max_nodes`) count like the largest node that is up: their trials wait, which an autoscaler sees.
    """
    if config.search.max_concurrent is not None:
        return config.search.max_concurrent
    granted = [config.get_resources(architecture) for architecture in config.search.architectures]
    held = [slots for node in nodes if (slots := max(map(node.count, granted)))]
    missing = max(0, (config.cluster.max_nodes or 0) - len(held))
    return max(1, sum(held) + missing * max(held, default=1))


def clear_nodes(folder: str, kept: Container[int]) -> None:
    """Delete on every node the checkpoints that killed workers left.

    Args:
        folder: Folder of the checkpoints on a node; `~` is the home on that node.
        kept: Numbers of the trials that will continue.
    """
    asked = [
        ray.remote(clear)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=True))
        .remote(folder, kept)
        for node in list_nodes()
    ]
    ray.wait(asked, num_returns=len(asked), timeout=CLEAR_S)


def clear(folder: str, kept: Container[int]) -> None:
    """Delete the checkpoints in a folder of this machine, except those of some trials."""
    for path in Path(folder).expanduser().glob("trial-*.ckpt*"):
        if int(path.name.partition(".")[0].removeprefix("trial-")) not in kept:
            path.unlink(missing_ok=True)


def list_nodes() -> list[Node]:
    """Return the nodes that are up, by address."""
    nodes = [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.address, node.id))


def _wait_for_nodes(config: StudyConfig) -> list[Node]:
    """Wait until there are enough nodes and return them; ask an autoscaler for the missing ones."""
    cluster = config.cluster
    deadline = time.monotonic() + (0 if cluster.address == "local" else cluster.wait_s)
    spread = None
    try:
        while (problem := find_problem(config, nodes := list_nodes())) is not None:
            if time.monotonic() >= deadline:
                raise InputError(problem)
            if spread is None:
                spread = _ask_for_nodes(config)
            time.sleep(1)
    finally:
        if spread is not None:
            remove_placement_group(spread)
        if cluster.address != "local":  # otherwise all requested nodes stay, even those that a killed driver requested
            request_resources(bundles=[])
    return nodes


def _ask_for_nodes(config: StudyConfig) -> PlacementGroup:
    """Ask an autoscaler for a node for every kind of trial, and for `min_nodes` nodes that fit the smallest."""
    wanted = [config.get_resources(architecture) for architecture in config.search.architectures]
    bundles = [{name: n for name, n in (("CPU", each.cpus), ("GPU", each.gpus)) if n} for each in wanted]
    request_resources(bundles=bundles)
    smallest = min(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)))
    group: PlacementGroup = placement_group([smallest] * config.cluster.min_nodes, strategy="STRICT_SPREAD")
    return group


def find_problem(config: StudyConfig, nodes: Sequence[Node]) -> str | None:
    """Return why the study cannot start on these nodes, or None: a trial fits no node, or they are too few."""
    for architecture in config.search.architectures:
        granted = config.get_resources(architecture)
        if not any(node.count(granted) for node in nodes):
            largest = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
            what = f"resources.{shorten(architecture)}"
            asked = f"{what}: a trial asks for {granted.cpus:g} CPUs and {granted.gpus:g} GPUs, but"
            if config.cluster.address == "local":
                return f"{asked} the nodes have {largest}: lower it or use a larger node"
            return (
                f"{asked} after {config.cluster.wait_s:g} seconds the nodes that are up have {largest}: if you expect "
                "others, check `ray status` or raise cluster.wait_s; else lower it or use a larger node"
            )
    wanted = [config.get_resources(architecture) for architecture in config.search.architectures]
    useful = [node.address for node in nodes if any(map(node.count, wanted))]
    if len(useful) < config.cluster.min_nodes:
        asked = f"cluster.min_nodes = {config.cluster.min_nodes}:"
        if config.cluster.address == "local":
            return f"{asked} a local Ray has one node: set it to 1, or set cluster.address to a cluster"
        return (
            f"{asked} after {config.cluster.wait_s:g} seconds a trial fits on {len(useful)} of {len(nodes)} nodes "
            f"({', '.join(useful)}): check `ray status`, lower it, or raise cluster.wait_s"
        )
    return None

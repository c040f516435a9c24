"""Checks that a node has the driver's code and versions, and that it shares the results with the driver.

Every node is checked before the search starts. A node may join later, and other code may be copied to one, so each
process that trains is checked too, before its first job.
"""

import dataclasses
import functools
import platform
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from search.cluster.job import NodeError
from search.cluster.nodes import Node, list_nodes
from search.cluster.probe import Probe, open_scratch, read_file
from search.config.schema import MANIFEST, StudyConfig
from search.config.urls import is_url
from search.record.provenance import ROOT, hash_source
from trainables.errors import InputError

TIMEOUT_S = 120
"""Seconds in which a node must import the project and answer; a cold network disk takes tens of seconds."""
PATIENCE_S = 30.0
"""Seconds that a process waits until the results are usable: a folder may be mounted late, a store may answer late."""
PAUSE_S = 5.0
"""Seconds between two tries."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a process must share with the driver to train."""

    versions: tuple[tuple[str, str], ...]
    """Name -> version on the driver."""
    folder: str
    """Folder of the results, or its URL in an object store; it has a study.yaml that the driver wrote."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What a process reports of its machine."""

    host: str
    versions: Mapping[str, str]
    """Versions of Python, Ray, torch and the project, whose version is the hash of its code."""
    free_memory: int
    """Bytes."""
    probe: Probe | None
    """The probe that it wrote; None if the results cannot be used."""
    problem: str | None
    """Why the results cannot be used."""


CHECKED: set[Requirements] = set()
"""Requirements that this process fulfils: one check is enough, since a process keeps the code that it imported."""


def check_nodes(config: StudyConfig, nodes: Sequence[Node], console: Console) -> None:
    """Check every node of a cluster before the search, and print a table of the nodes.

    Raises:
        InputError: If a node does not answer, has other versions than the driver, or does not share the results.
    """
    results = config.results if config.url else str(Path(config.results).resolve())
    try:
        with open_scratch(results) as folder:
            requirements = Requirements(versions=tuple(describe_driver().items()), folder=folder)
            there = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
            asked = ray.remote(examine)
            answers = [asked.options(num_cpus=0, scheduling_strategy=each).remote(requirements) for each in there]
            found = [_await(node, answer) for node, answer in zip(nodes, answers, strict=True)]
            problems = [find_problem(state, Probe.has_arrived) for state in found]
    except OSError as error:
        raise InputError(f"results: cannot write into {results}: {error.strerror or error}") from None
    _print(nodes, found, console)
    for node, state, problem in zip(nodes, found, problems, strict=True):
        if difference := find_difference(describe_driver(), state.versions):
            raise InputError(_explain_difference(node.address, difference))
        if problem:
            raise InputError(_explain_results(node.address, results, problem))


def check_process(
    requirements: Requirements, address: str, *, arrives: Callable[[Probe], bool], reaches: Callable[[str], bool]
) -> None:
    """Check that this process may train, unless it was checked before.

    Args:
        requirements: The requirements that it must fulfil.
        address: Address of this node.
        arrives: Answers on the driver's node whether a probe has arrived there.
        reaches: Answers on the driver's node whether an object store can be used there.

    Raises:
        NodeError: If this node has other code or versions than the driver, or does not share the results.
    """
    if requirements in CHECKED:
        return
    deadline = time.monotonic() + PATIENCE_S
    while True:
        state = examine(requirements)
        if difference := find_difference(dict(requirements.versions), state.versions):
            raise NodeError(_explain_difference(address, difference))
        problem = find_problem(state, arrives)
        if state.probe is not None:
            state.probe.delete()
        # a search survives an outage of the store
        is_outage = problem is not None and is_url(requirements.folder) and not reaches(requirements.folder)
        if problem is None or is_outage:
            break
        if time.monotonic() >= deadline:
            raise NodeError(_explain_results(address, requirements.folder, problem))
        time.sleep(PAUSE_S)
    CHECKED.add(requirements)


def examine(requirements: Requirements) -> NodeState:
    """Describe the machine of this process, write a probe into the results, and read the driver's file there."""
    prefix = "checkpoints/" if is_url(requirements.folder) else ""  # the one place where a worker may delete objects
    probe = Probe(requirements.folder, f"{prefix}.reaching-{secrets.token_hex(8)}", secrets.token_bytes(16))
    problem = None
    try:
        probe.write()
        if read_file(requirements.folder, MANIFEST) is None:
            raise InputError(f"{MANIFEST}, which the driver wrote, is not there")
    except (OSError, InputError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        probe.delete()
    return NodeState(
        host=socket.gethostname(),
        versions=describe_versions(),
        free_memory=psutil.virtual_memory().available,
        probe=None if problem else probe,
        problem=problem,
    )


def find_problem(state: NodeState, arrives: Callable[[Probe], bool]) -> str | None:
    """Return why the results are not shared with the driver, or None."""
    if state.probe is None or arrives(state.probe):
        return state.problem
    return "a file that it writes there does not arrive on the driver's node"


def describe_versions() -> dict[str, str]:
    """Return the versions on which a result depends, as they are installed on this machine."""
    packages = {name: version(name) for name in ("ray", "torch")}
    return {"Python": platform.python_version(), **packages, "code": hash_source(ROOT)[:12]}


@functools.cache
def describe_driver() -> Mapping[str, str]:
    """Return the versions that this process runs; a later installation does not change them."""
    return describe_versions()


def find_difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Return in which versions a node differs from the driver, or None."""
    found = [f"{name} {theirs[name]} and the driver {mine[name]}" for name in mine if theirs[name] != mine[name]]
    return ", ".join(found) or None


def _await(node: Node, answer: "ray.ObjectRef[NodeState]") -> NodeState:
    try:
        return ray.get(answer, timeout=TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise InputError(f"node {node.address} {_explain_silence(node, error)}") from error


def _explain_silence(node: Node, error: ray.exceptions.RayError) -> str:
    """Return why a node gave no answer, and the cure."""
    last_line = str(error).strip().splitlines()[-1]
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return (
            f"did not answer within {TIMEOUT_S:g} seconds: check its load, its disk and its network, then start again"
        )
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"cannot run this project ({last_line}): install the same versions there"
    if node.id not in {each.id for each in list_nodes()}:
        return "vanished while it was checked: start again when enough nodes are up"
    return f"lost the process that had to answer ({last_line}): check its memory and Ray's logs there"


def _explain_difference(address: str, difference: str) -> str:
    return f"node {address} has {difference}: install the same on both"


def _explain_results(address: str, results: str, reason: str) -> str:
    cure = "give it the credentials too" if is_url(results) else "use a folder that every node has mounted"
    return f"results: node {address} does not share {results} ({reason}): {cure}"


def _print(nodes: Sequence[Node], states: Sequence[NodeState], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("node", "host", "CPUs", "GPUs", "free memory", *describe_driver()):
        table.add_column(title)
    for node, state in zip(nodes, states, strict=True):
        memory = f"{state.free_memory / 1e9:.1f} GB"
        row = (node.address, state.host, f"{node.cpus:g}", f"{node.gpus:g}", memory, *state.versions.values())
        table.add_row(*row)
    console.print(table)

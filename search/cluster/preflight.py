"""What must be the same on every node of a cluster before the first trial: versions, code, and the shared folder."""

import dataclasses
import platform
import secrets
import socket
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from search.cluster.nodes import Node
from search.config import StudyConfig
from search.provenance import ROOT, hash_source
from trainables.errors import InputError

TIMEOUT_S = 120
"""How long a node may take to import the project and answer; a cold network disk takes tens of seconds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a node says of itself."""

    host: str
    versions: Mapping[str, str]
    """Of Python, Ray, torch and the project, whose version is the hash of its code."""
    free_memory: int
    """Bytes."""
    problem: str | None
    """Why the shared folder cannot be used there."""


def check_nodes(config: StudyConfig, nodes: Sequence[Node], console: Console) -> None:
    """Print what every node of a cluster is and has, and check that a trial may run on any of them.

    Raises:
        InputError: If a node does not answer, has other versions than the driver, or does not see the results folder.
    """
    if config.cluster.address == "local":
        return
    results = Path(config.results).resolve()
    secret = secrets.token_hex(16)
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=results, prefix=".reaching-") as folder:
            (Path(folder) / "driver").write_text(secret)
            found = {node.address: _ask(node, folder, secret) for node in nodes}
            conditions = {address: _await(address, answer) for address, answer in found.items()}
            written = {node.address: _read(Path(folder) / node.id) for node in nodes}
    except OSError as error:
        raise InputError(f"results: cannot write into {results}: {error.strerror or error}") from None
    _print(nodes, conditions, console)
    mine = describe_versions()
    for address, condition in conditions.items():
        if problem := find_difference(mine, condition.versions):
            raise InputError(f"node {address} has {problem}: install the same on both")
        if condition.problem or written[address] != secret:
            reason = condition.problem or "what it writes there does not arrive here"
            raise InputError(f"results: node {address} does not share {results} ({reason}): use a folder all nodes see")


def describe_versions() -> dict[str, str]:
    """Return the versions on which a result depends, as this process has them."""
    packages = {name: version(name) for name in ("ray", "torch")}
    return {"Python": platform.python_version(), **packages, "project": hash_source(ROOT)[:12]}


def find_difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Say in what a node differs from the driver."""
    found = [f"{name} {theirs[name]} and the driver {mine[name]}" for name in mine if theirs[name] != mine[name]]
    return ", ".join(found) or None


def reach(folder: str, name: str, secret: str) -> Condition:
    """Look at the node that this runs on, read what the driver wrote, and write something for it to read."""
    problem = None
    try:
        if (Path(folder) / "driver").read_text() != secret:
            problem = "what the driver writes does not arrive there"
        (Path(folder) / name).write_text(secret)
    except OSError as error:
        problem = error.strerror or str(error)
    return Condition(
        host=socket.gethostname(),
        versions=describe_versions(),
        free_memory=psutil.virtual_memory().available,
        problem=problem,
    )


def _ask(node: Node, folder: str, secret: str) -> "ray.ObjectRef[Condition]":
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    remote = ray.remote(reach).options(num_cpus=0, scheduling_strategy=place)
    answer: ray.ObjectRef[Condition] = remote.remote(folder, node.id, secret)
    return answer


def _await(address: str, answer: "ray.ObjectRef[Condition]") -> Condition:
    try:
        condition: Condition = ray.get(answer, timeout=TIMEOUT_S)
    except ray.exceptions.RayError as error:
        last_line = str(error).strip().splitlines()[-1]
        raise InputError(f"node {address} cannot run this project ({last_line}): install the same there") from error
    return condition


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _print(nodes: Sequence[Node], conditions: Mapping[str, Condition], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("node", "host", "CPUs", "GPUs", "free memory", *describe_versions()):
        table.add_column(title)
    for node in nodes:
        condition = conditions[node.address]
        memory = f"{condition.free_memory / 1e9:.1f} GB"
        row = (node.address, condition.host, f"{node.cpus:g}", f"{node.gpus:g}", memory, *condition.versions.values())
        table.add_row(*row)
    console.print(table)

"""What must be the same on every node of a cluster before the first trial: versions, code, and the shared results."""

import dataclasses
import platform
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from search.cluster.nodes import Node
from search.cluster.store import Store, is_url
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
    """Why the results cannot be used there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Folder:
    """A folder as a place for messages, as search.cluster.store.Store is one."""

    path: str

    def read(self, name: str) -> bytes | None:
        """Return a message, None if it is not there."""
        try:
            return (Path(self.path) / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Leave a message."""
        (Path(self.path) / name).write_bytes(content)


def check_nodes(config: StudyConfig, nodes: Sequence[Node], console: Console) -> None:
    """Print what every node of a cluster is and has, and check that a trial may run on any of them.

    Raises:
        InputError: If a node does not answer, has other versions than the driver, or does not see the results.
    """
    if config.cluster.address == "local":
        return
    results = config.results if config.url else str(Path(config.results).resolve())
    secret = secrets.token_bytes(16)
    try:
        with open_board(results) as board:
            board.write("driver", secret)
            found = {node.address: _ask(node, board, secret) for node in nodes}
            conditions = {address: _await(address, answer) for address, answer in found.items()}
            written = {node.address: board.read(node.id) for node in nodes}
    except OSError as error:
        raise InputError(f"results: cannot write into {results}: {error.strerror or error}") from None
    _print(nodes, conditions, console)
    mine = describe_versions()
    for address, condition in conditions.items():
        if problem := find_difference(mine, condition.versions):
            raise InputError(f"node {address} has {problem}: install the same on both")
        if condition.problem or written[address] != secret:
            reason = condition.problem or "what it writes there does not arrive here"
            cure = "give it the credentials too" if config.url else "use a folder all nodes see"
            raise InputError(f"results: node {address} does not share {results} ({reason}): {cure}")


def describe_versions() -> dict[str, str]:
    """Return the versions on which a result depends, as this process has them."""
    packages = {name: version(name) for name in ("ray", "torch")}
    return {"Python": platform.python_version(), **packages, "project": hash_source(ROOT)[:12]}


def find_difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Say in what a node differs from the driver."""
    found = [f"{name} {theirs[name]} and the driver {mine[name]}" for name in mine if theirs[name] != mine[name]]
    return ", ".join(found) or None


@contextmanager
def open_board(results: str) -> Iterator[Folder | Store]:
    """Yield a place below the results where messages can be left for as long as the block lasts."""
    if is_url(results):
        board = Store(f"{results.rstrip('/')}/.reaching-{secrets.token_hex(4)}")
        try:
            yield board
        finally:
            board.delete(board.list())
        return
    Path(results).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results, prefix=".reaching-") as folder:
        yield Folder(folder)


def reach(board: Folder | Store, name: str, secret: bytes) -> Condition:
    """Look at the node that this runs on, read what the driver wrote, and write something for it to read."""
    problem = None
    try:
        if board.read("driver") != secret:
            problem = "what the driver writes does not arrive there"
        board.write(name, secret)
    except (OSError, InputError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    return Condition(
        host=socket.gethostname(),
        versions=describe_versions(),
        free_memory=psutil.virtual_memory().available,
        problem=problem,
    )


def _ask(node: Node, board: Folder | Store, secret: bytes) -> "ray.ObjectRef[Condition]":
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    remote = ray.remote(reach).options(num_cpus=0, scheduling_strategy=place)
    answer: ray.ObjectRef[Condition] = remote.remote(board, node.id, secret)
    return answer


def _await(address: str, answer: "ray.ObjectRef[Condition]") -> Condition:
    try:
        condition: Condition = ray.get(answer, timeout=TIMEOUT_S)
    except ray.exceptions.RayError as error:
        last_line = str(error).strip().splitlines()[-1]
        raise InputError(f"node {address} cannot run this project ({last_line}): install the same there") from error
    return condition


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

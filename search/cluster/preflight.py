"""What must be the same on every node of a cluster before the first trial: versions, code, and the shared results."""

import dataclasses
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from search.cluster.agreement import (
    describe_driver,
    describe_versions,
    explain_difference,
    explain_place,
    find_difference,
)
from search.cluster.nodes import Node, list_nodes
from search.config.schema import StudyConfig
from search.config.urls import is_url
from search.record.object_store import Store
from trainables.durable import make_folder
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
    """A folder as a place for messages, as search.record.object_store.Store is one."""

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
            conditions = {node.address: _await(node, found[node.address]) for node in nodes}
            written = {node.address: board.read(node.id) for node in nodes}
    except OSError as error:
        raise InputError(f"results: cannot write into {results}: {error.strerror or error}") from None
    _print(nodes, conditions, console)
    for address, condition in conditions.items():
        if difference := find_difference(describe_driver(), condition.versions):
            raise InputError(explain_difference(address, difference))
        if condition.problem or written[address] != secret:
            reason = condition.problem or "what it writes there does not arrive here"
            raise InputError(explain_place(address, results, reason))


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
    make_folder(Path(results))
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


def _await(node: Node, answer: "ray.ObjectRef[Condition]") -> Condition:
    try:
        condition: Condition = ray.get(answer, timeout=TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise InputError(f"node {node.address} {_explain(node, error)}") from error
    return condition


def _explain(node: Node, error: ray.exceptions.RayError) -> str:
    """Say why a node gave no answer, and the cure."""
    last_line = str(error).strip().splitlines()[-1]
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return (
            f"did not answer within {TIMEOUT_S:g} seconds: look at its load, its disk and its network, then start again"
        )
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"cannot run this project ({last_line}): install the same there"
    if node.id not in {each.id for each in list_nodes()}:
        return "vanished while it was asked: start again, when enough nodes are up"
    return f"lost the process that was to answer ({last_line}): look at its memory and at Ray's logs there"


def _print(nodes: Sequence[Node], conditions: Mapping[str, Condition], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("node", "host", "CPUs", "GPUs", "free memory", *describe_driver()):
        table.add_column(title)
    for node in nodes:
        condition = conditions[node.address]
        memory = f"{condition.free_memory / 1e9:.1f} GB"
        row = (node.address, condition.host, f"{node.cpus:g}", f"{node.gpus:g}", memory, *condition.versions.values())
        table.add_row(*row)
    console.print(table)

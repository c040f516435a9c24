"""What every node must have in common with the driver: code, versions, and the way to the results.

The nodes that are up are asked before the search (preflight.py). Another may join later, and other code may be put onto
one, so each process that trains is held against the driver once more, before its first trial (delivery.py).
"""

import dataclasses
import functools
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from search.config.urls import is_url
from search.record.object_store import Store
from search.record.provenance import ROOT, hash_source
from trainables.errors import InputError

PATIENCE_S = 30.0
"""Seconds in which results that a node cannot use may become usable: a folder is mounted late, a store answers late."""
PAUSE_S = 5.0
"""Seconds between two tries."""


class NodeError(RuntimeError):
    """A node on which no trial may run; the message names it, what is wrong, and the cure.

    That is no trial's fault, and a node that refused one trial would take the next: the search ends, resumable.
    """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a process that trains must agree with."""

    versions: tuple[tuple[str, str], ...]
    """The driver's, by name."""
    place: str
    """The study's folder, or its URL in an object store."""


AGREED: set[Terms] = set()
"""What this process was found to agree with: one look is enough, for its code is what it imported."""


def agree(terms: Terms, address: str, *, arrives: Callable[[str, bytes], bool], reaches: Callable[[str], bool]) -> None:
    """Check that this process may train, unless it was checked before.

    Args:
        terms: What it must agree with.
        address: Of this node.
        arrives: Answers on the driver's node whether a file with some content is there.
        reaches: Answers on the driver's node whether an object store can be used.

    Raises:
        NodeError: If this node has other code or versions than the driver, or cannot use the results.
    """
    if terms in AGREED:
        return
    if difference := find_difference(dict(terms.versions), describe_versions()):
        raise NodeError(explain_difference(address, difference))
    deadline = time.monotonic() + PATIENCE_S
    while (problem := _try(terms.place, arrives, reaches)) is not None:
        if time.monotonic() >= deadline:
            raise NodeError(explain_place(address, terms.place, problem))
        time.sleep(PAUSE_S)
    AGREED.add(terms)


def describe_versions() -> dict[str, str]:
    """Return the versions on which a result depends, as they lie on this machine."""
    packages = {name: version(name) for name in ("ray", "torch")}
    return {"Python": platform.python_version(), **packages, "project": hash_source(ROOT)[:12]}


@functools.cache
def describe_driver() -> Mapping[str, str]:
    """Return this process's versions as they were when it was first asked: what it runs, whatever lies there later."""
    return describe_versions()


def find_difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Say in what a node differs from the driver."""
    found = [f"{name} {theirs[name]} and the driver {mine[name]}" for name in mine if theirs[name] != mine[name]]
    return ", ".join(found) or None


def explain_difference(address: str, difference: str) -> str:
    """Return the sentence about a node that has other versions."""
    return f"node {address} has {difference}: install the same on both"


def explain_place(address: str, place: str, reason: str) -> str:
    """Return the sentence about a node that cannot use the place of the results."""
    cure = "give it the credentials too" if is_url(place) else "use a folder all nodes see, mounted on each"
    return f"results: node {address} does not share {place} ({reason}): {cure}"


def has_arrived(path: str, content: bytes) -> bool:
    """Answer whether a file with some content is here."""
    try:
        return Path(path).read_bytes() == content
    except OSError:
        return False


def can_use(url: str) -> bool:
    """Answer whether an object store can be used from here."""
    try:
        Store(url).check()
    except InputError:
        return False
    return True


def _try(place: str, arrives: Callable[[str, bytes], bool], reaches: Callable[[str], bool]) -> str | None:
    """Read and write where the results lie and return what is wrong there."""
    if not is_url(place):
        return _try_folder(Path(place), arrives)
    try:
        Store(place).check()
    except InputError as error:
        return str(error) if reaches(place) else None  # out of everybody's reach: an outage, which a search sits out
    return None


def _try_folder(folder: Path, arrives: Callable[[str, bytes], bool]) -> str | None:
    probe, content = folder / f".reaching-{secrets.token_hex(8)}", secrets.token_bytes(16)
    try:
        (folder / "study.yaml").read_bytes()  # which the driver wrote
        probe.write_bytes(content)
        there = arrives(str(probe), content)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with suppress(OSError):
            probe.unlink()
    return None if there else "what it writes there does not arrive on the driver's node"

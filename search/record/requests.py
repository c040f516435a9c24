"""Requests to a search from another terminal (`ask`, `stop`): one file each, until the search has recorded it.

Only one process may write the journal. So a request is a file in the study's folder, synced to disk. The search records
it in the journal, acts on it, and deletes the file. The journal has the request's name with the fact, so after a kill
nothing is done twice. In an object store a request is an object, which the mirror downloads and does not delete.
"""

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from search.config.load import check
from search.config.schema import REQUESTS
from search.config.untrusted import parse_json, read_file
from search.record.errors import explain_denied
from trainables.config import Value
from trainables.durable import write_file

LOOK_S = 1.0
"""Seconds between two looks for new requests."""
REQUEST_BYTES = 64 * 2**10
"""Most bytes of a request; usually it has a hundred."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: train a point, end a trial, or, if it names neither, end the search."""

    ask: dict[str, Value] | None
    """Parameters as cnn.learning_rate."""
    trial: int | None
    """Number of the trial that ends."""


class Inbox:
    """The requests of a study that its search has not recorded yet."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        """Look for requests in a study's folder; `note` receives a sentence about each that cannot be read."""
        self._folder = folder / REQUESTS
        self._note = note
        self._looked = -LOOK_S

    def take(self) -> Iterator[tuple[str, Request]]:
        """Yield name and content of new requests, in the order of their times; look for them at most once a second.

        A request's file is deleted when the next one is taken, so the request must be recorded by then.
        """
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        for path in _list_files(self._folder):
            try:
                yield path.stem, check(Request, parse_json(read_file(path, REQUEST_BYTES)), str(path))
            except (OSError, ValueError) as error:
                self._note(f"a request is ignored: {error}")
            with contextlib.suppress(OSError):
                path.unlink()


def has_requests(folder: Path) -> bool:
    """Return whether a study's folder has requests that its search has not recorded."""
    return bool(_list_files(folder / REQUESTS))


def _list_files(folder: Path) -> list[Path]:
    return sorted(filter(Path.is_file, folder.glob("*.json")))


def send_request(place: Path | str, request: Request) -> None:
    """Store a request for the search of a study; when this returns, it is on the disk.

    Args:
        place: The study's folder, or its URL.
        request: The request.

    Raises:
        InputError: If it cannot be written.
    """
    name = f"{REQUESTS}/{time.time_ns():020}-{secrets.token_hex(4)}.json"
    content = json.dumps(dataclasses.asdict(request)).encode()
    with explain_denied(f"cannot write a request into {place}", "ask as a user that may write there"):
        if isinstance(place, str):
            from search.record.object_store import Store

            Store(place).write(name, content)
        else:
            write_file(place / name, content)

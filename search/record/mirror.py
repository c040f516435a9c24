"""The mirror of a study in an object store: synchronises its folder on this machine with the store.

The journal is uploaded ("shipped") in parts of new, complete lines: objects named by the byte at which they begin. A
part is created on the condition that no part has its name. So the parts are one history, whichever driver writes, and
two drivers cannot both continue it. Other files are sent when they change.
"""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search.config.schema import JOURNAL, LEASE, MANIFEST, REQUESTS, StudyConfig
from search.record.exit import leave
from search.record.lease import Slot
from search.record.object_store import Store
from search.record.remote import CHECKPOINTS, StoreSlot, list_files, name_part, read_parts
from search.record.trial import Listener, Trial
from trainables.durable import write_file

INDEX = ".store.json"
SHIP_S = 5.0
"""Seconds between journal uploads. A lost head loses the facts of this time, and those written during an upload."""
FILES_EVERY = 12
"""Journal uploads between two uploads of changed files, which are W&B's while a search runs."""
NOT_SENT = (JOURNAL, MANIFEST, LEASE, INDEX, REQUESTS, "checkpoints")
"""Files that are not sent when they change: the journal is shipped in parts, the manifest is sent by `put` after the
lines that it depends on, and workers upload checkpoints."""
PARTIAL = (".ckpt", ".previous", ".partial", ".fetched")
"""Suffixes of checkpoints and of files that are being written."""


class Mirror(Listener):
    """Synchronises a study's folder with its object store; a line waits for the next part, unless it ends a trial."""

    def __init__(self, config: StudyConfig, note: Callable[[str], None]) -> None:
        assert config.url is not None, "a study in a folder needs no mirror"
        self.store = Store(config.url)
        self.directory = config.directory
        self.slot: Slot = StoreSlot(self.store)
        """Where the study's lease is stored."""
        self._note = note
        self._index: dict[str, list[Any]] = _read_index(config.directory / INDEX)
        self._shipped = 0  # bytes of the journal that the store has
        self._check: Callable[[], None] = lambda: None
        self._ended: list[int] = []  # trials whose checkpoints can be deleted in the store
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._asked: set[str] = set()  # requests that were downloaded
        self._is_lost = False
        self._sending = threading.Lock()  # two threads send files
        self._shipping = threading.RLock()  # and lines of the journal

    def restore(self) -> None:
        """Download the files that differ; if the journals differ, the store's is used."""
        self.fetch(list_files(self.store))
        journal = self.directory / JOURNAL
        shipped = read_parts(self.store)
        here = journal.read_bytes() if journal.exists() else b""
        if not here.startswith(shipped):  # truncated, or continued on another machine: the store's is used
            write_file(journal, shipped)
        self._shipped = len(shipped)

    def fetch(self, names: list[str]) -> None:
        """Download files that are missing here or differ from the store's."""
        stored = self.store.list()
        with self._sending:
            wanted = [name for name in names if name in stored and not self._is_same(name, stored[name])]
            lacking = {name: self.directory / name for name in wanted}
            self.store.download(lacking)
            for name, path in lacking.items():
                self._index[name] = [*_stat(path), stored[name]]
            if lacking:
                self._write_index()

    def put(self, name: str) -> None:
        """Ship the journal, then a file; when this returns, the store has both."""
        self._ship_journal()
        self._check()
        self._send({name: self.directory / name})

    def start(self, check: Callable[[], None]) -> None:
        """Start to ship in the background; `check` does not return if the lease was lost."""
        self._check = check
        self._thread = threading.Thread(target=self._run, daemon=True, name="shipping")
        self._thread.start()

    def close(self) -> None:
        """Ship the rest.

        Raises:
            StoreError: If the store refuses it; it stays on this machine, and resuming the study here ships it.
        """
        if self._thread is None:
            return
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._thread = None
        self._ship_ends()
        self._ship_files()

    def on_end(self, trial: Trial) -> None:
        """Ship the end at once, then delete the trial's checkpoints in the store."""
        self._ended.append(trial.number)
        self._wake.set()

    def delete_leftovers(self, trials: list[Trial]) -> None:
        """Delete the stored checkpoints of ended trials that a kill left."""
        self._ended += [trial.number for trial in trials if trial.ended]
        self._wake.set()

    def _run(self) -> None:
        rounds = 0
        while not self._stopping:
            self._wake.wait(SHIP_S)
            self._wake.clear()
            rounds += 1
            try:
                self._ship_ends()
                self._fetch_requests()
                if rounds % FILES_EVERY == 0:
                    self._ship_files()
                self._is_lost = False
            except OSError as error:  # of the store, or about a file that W&B has just deleted
                if not self._is_lost:
                    self._note(f"{error}; the search continues here and uploads the rest when the store answers again")
                self._is_lost = True

    def _ship_ends(self) -> None:
        """Ship the journal, then delete the checkpoints of trials whose end it contains."""
        count = len(self._ended)  # counted first, because another thread may add a trial whose end is not in this part
        self._ship_journal()
        if count:
            ended = {f"trial-{number}" for number in self._ended[:count]}
            self.store.delete(name for name in self.store.list(CHECKPOINTS) if name.split("/")[1] in ended)
            del self._ended[:count]

    def _fetch_requests(self) -> None:
        """Download new requests; the journal has the names of earlier ones, so nothing is done twice."""
        new = {name: self.directory / name for name in self.store.list(REQUESTS) if name not in self._asked}
        self.store.download(new)
        self._asked |= new.keys()

    def _ship_journal(self) -> None:
        """Ship the complete lines that the store lacks, as one part."""
        journal = self.directory / JOURNAL
        if not journal.exists():
            return
        with self._shipping:
            with journal.open("rb") as file:
                file.seek(self._shipped)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            if not new:
                return
            self._check()
            name = name_part(self._shipped)
            if self.store.create(name, new):
                self._shipped += len(new)
                return
            stored = self.store.read(name)
            # Each line names its writer, so a part of another driver does not begin like ours.
            if not stored or not new.startswith(stored):
                leave(f"error: another driver continues {self.store.url}: this process ends and writes no more", 1)
            self._shipped += len(stored)  # it is ours: the answer was lost, and the journal has grown meanwhile
            self._ship_journal()

    def _ship_files(self) -> None:
        changed = {name: path for name, path in self._list_files() if self._index.get(name, [])[:2] != _stat(path)}
        if changed:
            self._check()
            self._send(changed)

    def _send(self, files: dict[str, Path]) -> None:
        """Upload files; a file that changes meanwhile is uploaded again later."""
        with self._sending:
            seen = {name: _stat(path) for name, path in files.items()}
            self.store.upload(files)
            stored: dict[str, str] = {}
            for folder in {name.partition("/")[0] for name in files}:
                stored |= self.store.list(folder)
            for name, stat in seen.items():
                self._index[name] = [*stat, stored.get(name)]
            self._write_index()

    def _list_files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every file that is sent when it changes."""
        for path in sorted(self.directory.rglob("*")):
            name = path.relative_to(self.directory).as_posix()
            is_sent = name.partition("/")[0] not in NOT_SENT and not name.endswith(PARTIAL)
            if is_sent and path.is_file() and not path.is_symlink():
                yield name, path

    def _is_same(self, name: str, version: str) -> bool:
        path = self.directory / name
        return path.exists() and self._index.get(name) == [*_stat(path), version]

    def _write_index(self) -> None:
        write_file(self.directory / INDEX, json.dumps(self._index).encode())


def _stat(path: Path) -> list[int]:
    """Return modification time and size; one of them changes when the file changes."""
    found = path.stat()
    return [found.st_mtime_ns, found.st_size]


def _read_index(path: Path) -> dict[str, list[Any]]:
    try:
        index: dict[str, list[Any]] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return index

"""A study in an object store: its folder on this machine is a working copy, brought from the store and shipped to it.

The journal is shipped as parts, objects named by the byte they begin at: only whole lines, only what is new, so that a
study of any length costs what it writes. A part is created under the condition that none of its name is there: so the
parts are one line of history, whoever writes, and two drivers cannot both go on with it. All other files are sent when
they changed. A study in a folder has no store, and nothing here does anything.
"""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search.config.schema import StudyConfig
from search.record.exit import leave
from search.record.journal import Trial
from search.record.lease import Slot
from search.record.object_store import Store, StoreSlot
from search.record.remote import CHECKPOINTS, JOURNAL, list_files, name_part, read_parts
from trainables.durable import write_file

INDEX = ".store.json"
SHIP_S = 5.0
"""Seconds between two looks for new lines of the journal: what a head that vanishes can lose, beside what is written
while this thread waits for the store: for that part, for deletions, and for files."""
FILES_EVERY = 12
"""Looks between two that ship changed files too, which are W&B's while a search runs."""
KEPT_HERE = (JOURNAL, "study.yaml", "study.lock", INDEX, "checkpoints")
"""What is not shipped as a changed file: the first travels in parts, the second by `put`, after the lines of the
journal that it rests on; the last is shipped by the workers."""
HALF_WRITTEN = (".ckpt", ".previous", ".partial", ".fetched")
"""How the names of checkpoints and of files end that are being written."""


class Copy:
    """A study's folder on this machine, and the store that it belongs to, if it does."""

    def __init__(self, config: StudyConfig, note: Callable[[str], None]) -> None:
        self.store = Store(config.url) if config.url else None
        self.directory = config.directory
        self._note = note
        self._index: dict[str, list[Any]] = _read_index(config.directory / INDEX)
        self._shipped = 0  # bytes of the journal that lie in the store
        self._check: Callable[[], None] = lambda: None
        self._dropped: list[int] = []
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._is_lost = False
        self._sending = threading.Lock()  # files go from two threads
        self._shipping = threading.RLock()  # and lines of the journal

    @property
    def lock(self) -> Path | Slot:
        """Where the study's lock lies."""
        return StoreSlot(self.store) if self.store else self.directory / "study.lock"

    def choose_check(self, check: Callable[[], None]) -> Callable[[], None] | None:
        """Return what to ask before each line of the journal: nothing where the lock lies in a store.

        The journal here is then this machine's own, which no outage of the store may keep waiting; the right to write
        is asked for before it is shipped.
        """
        return check if self.store is None else None

    def restore(self) -> None:
        """Bring everything that the store knows better: its record of the study counts, not what lies here."""
        if self.store is None:
            return
        self.fetch(list_files(self.store))
        journal = self.directory / JOURNAL
        shipped = read_parts(self.store)
        here = journal.read_bytes() if journal.exists() else b""
        if not here.startswith(shipped):  # shorter, or gone on with by nobody who could ship it
            write_file(journal, shipped)
        self._shipped = len(shipped)

    def fetch(self, names: list[str]) -> None:
        """Bring files that are not here as they are in the store."""
        if self.store is None:
            return
        there = self.store.list()
        with self._sending:
            wanted = [name for name in names if name in there and not self._is_same(name, there[name])]
            lacking = {name: self.directory / name for name in wanted}
            self.store.download(lacking)
            for name, path in lacking.items():
                self._index[name] = [*_look(path), there[name]]
            if lacking:
                self._write_index()

    def fetch_below(self, folder: str) -> None:
        """Bring what workers have put below a folder."""
        if self.store is not None:
            self.fetch(list(self.store.list(folder)))

    def put(self, *names: str) -> None:
        """Ship the journal, then files, now; when this returns, the store has them."""
        if self.store is not None:
            self._ship_journal()
            self._check()
            self._send({name: self.directory / name for name in names})

    def start(self, check: Callable[[], None]) -> None:
        """Ship what is new from now on, in the background.

        Args:
            check: Does not return if the right to write was lost.
        """
        self._check = check
        if self.store is not None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="shipping")
            self._thread.start()

    def close(self) -> None:
        """Ship the rest.

        Raises:
            StoreError: If the store does not take it; it lies here, and a resumed study on this machine ships it.
        """
        if self.store is None or self._thread is None:
            return
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._thread = None
        self._ship_ends()
        self._ship_files()

    def on_start(self, trial: Trial) -> None:
        """Nothing to do: the line is shipped with the next part."""

    def on_epoch(self, trial: Trial) -> None:
        """Nothing to do: the line is shipped with the next part."""

    def on_end(self, trial: Trial) -> None:
        """Ship the end at once, and delete the trial's checkpoints in the store."""
        if self.store is not None:
            self._dropped.append(trial.number)
            self._wake.set()

    def sweep(self, trials: list[Trial]) -> None:
        """Delete the checkpoints of ended trials that a kill left in the store."""
        if self.store is not None:
            self._dropped += [trial.number for trial in trials if trial.ended]
            self._wake.set()

    def _run(self) -> None:
        looks = 0
        while not self._stopping:
            self._wake.wait(SHIP_S)
            self._wake.clear()
            looks += 1
            try:
                self._ship_ends()
                if looks % FILES_EVERY == 0:
                    self._ship_files()
                self._is_lost = False
            except OSError as error:  # of the store, or of a file that W&B just deleted
                if not self._is_lost:
                    self._note(f"{error}; the search goes on here, and what is new is shipped when the store is back")
                self._is_lost = True

    def _ship_ends(self) -> None:
        """Ship the journal, then delete the checkpoints of trials whose end has gone with it."""
        ended = len(self._dropped)  # before: the other thread adds a trial whose end this part may lack
        self._ship_journal()
        self._drop_checkpoints(ended)

    def _ship_journal(self) -> None:
        """Ship the whole lines that the store lacks as one part."""
        assert self.store is not None, "there is nothing to ship without a store"
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
            there = self.store.read(name)
            # Lines say who wrote them, so none of another driver begins as ours.
            if not there or not new.startswith(there):
                leave(f"error: another driver goes on with {self.store.url}: this process ends and writes no more", 1)
            self._shipped += len(there)  # it is ours: the answer was lost, and the journal has grown since
            self._ship_journal()

    def _drop_checkpoints(self, count: int) -> None:
        assert self.store is not None, "there is nothing to delete without a store"
        if count:
            ended = {f"trial-{number}" for number in self._dropped[:count]}
            self.store.delete(name for name in self.store.list(CHECKPOINTS) if name.split("/")[1] in ended)
            del self._dropped[:count]

    def _ship_files(self) -> None:
        changed = {name: path for name, path in self._list_files() if self._index.get(name, [])[:2] != _look(path)}
        if changed:
            self._check()
            self._send(changed)

    def _send(self, files: dict[str, Path]) -> None:
        """Send files; one that changes meanwhile is sent again."""
        assert self.store is not None, "there is nowhere to send to without a store"
        with self._sending:
            seen = {name: _look(path) for name, path in files.items()}
            self.store.upload(files)
            there: dict[str, str] = {}
            for folder in {name.partition("/")[0] for name in files}:
                there |= self.store.list(folder)
            for name, look in seen.items():
                self._index[name] = [*look, there.get(name)]
            self._write_index()

    def _list_files(self) -> Iterator[tuple[str, Path]]:
        """Yield every file that is shipped as one, by name."""
        for path in sorted(self.directory.rglob("*")):
            name = path.relative_to(self.directory).as_posix()
            is_ours = name.partition("/")[0] not in KEPT_HERE and not name.endswith(HALF_WRITTEN)
            if is_ours and path.is_file() and not path.is_symlink():
                yield name, path

    def _is_same(self, name: str, version: str) -> bool:
        path = self.directory / name
        return path.exists() and self._index.get(name) == [*_look(path), version]

    def _write_index(self) -> None:
        write_file(self.directory / INDEX, json.dumps(self._index).encode())


def _look(path: Path) -> list[int]:
    """Return what changes when a file does."""
    found = path.stat()
    return [found.st_mtime_ns, found.st_size]


def _read_index(path: Path) -> dict[str, list[Any]]:
    try:
        index: dict[str, list[Any]] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return index

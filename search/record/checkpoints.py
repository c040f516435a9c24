"""One training's checkpoint: a file on the node that trains, and in a store its copy, which outlives the node.

A checkpoint says whose it is. After a loss of the record's last seconds a trial's number may be proposed again with
other parameters: the checkpoint of the one that was lost is then another's, and is not gone on from.
"""

import dataclasses
import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.record.object_store import Store, StoreError

FOLDER = "checkpoints/"
"""Where they lie in a store: FOLDER, the training's name, whose, the epoch."""
NUM_KEPT = 2
"""Checkpoints of a training that stay in the store, as on the disk."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Where a training's checkpoint lies."""

    path: Path
    """Its newest file here."""
    name: str
    """Of the training within its study."""
    identity: str
    """All that makes the training what it is."""
    url: str | None = None
    """Of the study in a store."""

    def load(self) -> dict[str, Any] | None:
        """Return the newest intact state of this very training; None if there is none, here or in the store."""
        state = self._load_file()
        try:
            for epoch, name in self._list_stored():
                if state is not None and state["epoch"] >= epoch:
                    break
                Store(self.url or "").download({name: self.path})
                if (fetched := self._load_file()) is not None and fetched["epoch"] == epoch:
                    return fetched
        except StoreError:  # which is no reason not to train; what it has is trained again
            pass
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write a state here and into the store; without an answer from the store it lies here alone."""
        from trainables import checkpoint  # with torch, which the driver does without

        checkpoint.save(self.path, state | {"identity": self.identity})
        if self.url is None:
            return
        store = Store(self.url)
        try:
            store.upload({f"{self._prefix}{state['epoch']:06}": self.path})
            kept = [name for _, name in self._list_stored()[:NUM_KEPT]]
            store.delete([name for name in store.list(f"{FOLDER}{self.name}/") if name not in kept])
        except StoreError:  # the epoch counts all the same; if this node vanishes it is trained again
            pass

    def delete(self, *, stored: bool = True) -> None:
        """Delete what lies here, and in the store."""
        delete_files(self.path)
        if stored and self.url is not None:
            store = Store(self.url)
            with suppress(StoreError):  # then it stays, and is of no use to anybody
                store.delete(store.list(f"{FOLDER}{self.name}/"))

    def _load_file(self) -> dict[str, Any] | None:
        from trainables import checkpoint

        state = checkpoint.load(self.path)
        return None if state is None or state.pop("identity", None) != self.identity else state

    def _list_stored(self) -> list[tuple[int, str]]:
        """Return epoch and name of the stored checkpoints of this very training, newest first."""
        if self.url is None:
            return []
        return sorted(((int(name[-6:]), name) for name in Store(self.url).list(self._prefix)), reverse=True)

    @property
    def _prefix(self) -> str:
        return f"{FOLDER}{self.name}/{hashlib.sha256(self.identity.encode()).hexdigest()[:16]}/"


def delete_files(path: Path) -> None:
    """Delete a checkpoint, the one before, and half-written ones."""
    for suffix in ("", ".previous", ".partial", ".fetched"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

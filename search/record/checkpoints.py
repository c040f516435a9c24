"""The checkpoint of one training: a file on the node that trains, and a copy in the object store.

A checkpoint names its training. If the head was lost with the journal's last seconds, a trial's number may be proposed
again with other parameters. The old checkpoint then belongs to another training and is ignored.
"""

import dataclasses
import hashlib
import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.record.errors import StoreError
from search.record.trial import Listener, State, Trial
from trainables.durable import make_folder, sync
from trainables.errors import InputError

FOLDER = "checkpoints/"
"""Prefix of a checkpoint in a store; the training's name, a hash of its identity, and the epoch follow."""
NUM_KEPT = 2
"""Number of checkpoints of a training in the store, as on the disk."""
KEY_BYTES = 32
"""Length of the key with which the checkpoints of training functions are signed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where the checkpoint of a training is stored."""

    path: Path
    """Newest file on this node."""
    name: str
    """Name of the training within its study."""
    identity: str
    """Everything that determines the training."""
    url: str | None = None
    """URL of the study in an object store, if it has one."""
    key: bytes = b""
    """Key of `load_key`, if loading the state unpickles objects."""

    def load(self) -> dict[str, Any] | None:
        """Return the newest intact state of this training; None if neither this node nor the store has one."""
        state = self._load_file()
        with suppress(StoreError):  # train all the same; epochs that only the store has are trained again
            for epoch, name in self._list_stored():
                if state is not None and state["epoch"] >= epoch:
                    break
                self._store.download({name: self.path})
                if (fetched := self._load_file()) is not None and fetched["epoch"] == epoch:
                    return fetched
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write a state here and into the store; if the store does not answer, only here."""
        from trainables import checkpoint  # imports torch, which the driver does not need

        checkpoint.save(self.path, state | {"identity": self.identity}, self.key)
        if self.url is None:
            return
        with suppress(StoreError):  # the epoch counts; if this node vanishes, it is trained again
            self._store.upload({f"{self._prefix}{state['epoch']:06}": self.path})
            kept = [name for _, name in self._list_stored()[:NUM_KEPT]]
            self._store.delete([name for name in self._store.list(f"{FOLDER}{self.name}/") if name not in kept])

    def delete(self, *, stored: bool = True) -> None:
        """Delete the checkpoints here, and in the store."""
        delete_files(self.path)
        if stored and self.url is not None:
            with suppress(StoreError):  # then they stay, and nothing uses them
                self._store.delete(self._store.list(f"{FOLDER}{self.name}/"))

    def _load_file(self) -> dict[str, Any] | None:
        from trainables import checkpoint

        state = checkpoint.load(self.path, self.key)
        return None if state is None or state.pop("identity", None) != self.identity else state

    def _list_stored(self) -> list[tuple[int, str]]:
        """Return epoch and name of the stored checkpoints of this training, newest first."""
        if self.url is None:
            return []
        names = [name for name in self._store.list(self._prefix) if re.fullmatch("[0-9]{6}", name.rpartition("/")[2])]
        return sorted(((int(name[-6:]), name) for name in names), reverse=True)

    @property
    def _store(self) -> Any:
        from search.record.object_store import Store  # which a study in a folder does not need

        return Store(self.url or "")

    @property
    def _prefix(self) -> str:
        return f"{FOLDER}{self.name}/{hashlib.sha256(self.identity.encode()).hexdigest()[:16]}/"


class TrialCheckpoints(Listener):
    """Deletes the checkpoints of a trial that ended; winners are retrained, so nothing needs them.

    So each trial that runs or waits to be resumed has at most two checkpoints, and a third one while it is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get_path(self, number: int) -> Path:
        """Return the file of a trial's newest checkpoint."""
        return self._directory.resolve() / f"trial-{number}.ckpt"

    def delete_leftovers(self, trials: list[Trial]) -> None:
        """Delete the checkpoints of ended trials that a kill left."""
        for trial in trials:
            if trial.state is not State.RUNNING:
                self.on_end(trial)

    def on_end(self, trial: Trial) -> None:
        """Delete the trial's checkpoint, the previous one, and a half-written one."""
        delete_files(self.get_path(trial.number))

    def close(self) -> None:
        """Delete the folder if it is empty."""
        if self._directory.is_dir() and not any(self._directory.iterdir()):
            self._directory.rmdir()


def load_key() -> bytes:
    """Return the secret of this user on this machine, outside of all studies; make it at the first call.

    Raises:
        InputError: If it cannot be stored.
    """
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "cifake-search"
    path = folder / "checkpoint.key"
    try:
        if not path.exists():
            make_folder(folder)
            with tempfile.NamedTemporaryFile(dir=folder) as file:  # of mode 0600
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                sync(Path(file.name))
                with suppress(FileExistsError):  # another search was faster
                    os.link(file.name, path)
        key = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot store a key in {path} ({error.strerror}): set XDG_STATE_HOME to a folder") from None
    if len(key) != KEY_BYTES:
        raise InputError(f"{path} has {len(key)} bytes and not {KEY_BYTES}: copy it again, or delete it for a new key")
    return key


def delete_files(path: Path) -> None:
    """Delete a checkpoint, the previous one, and half-written ones."""
    for suffix in ("", ".previous", ".partial", ".fetched"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

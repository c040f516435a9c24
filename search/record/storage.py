"""Where the record lies: in a file of the study's folder, or in a database that a team shares.

A file is written by one driver, which study.lock sees to, and read by anybody. In a database the connection that writes
holds a lock of the server's on the study: who is cut off from the server has lost the lock and can write no more, and a
killed driver's lock goes with its connection.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.storages.journal._storage import JournalOperation

from search.config.untrusted import LINE_BYTES
from search.config.urls import DRIVERS, PASSWORD, JournalLocation, check_database_url
from trainables.durable import sync
from trainables.errors import InputError

CURE = "restore the file from a copy, or use another --name"
LOCK_PATIENCE_S = 5.0
"""How long a server may take to notice that the holder of a lock was killed."""
WRITER = {
    "postgresql": {"options": "-c tcp_keepalives_idle=60 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=6"},
    "mysql": {"init_command": "SET SESSION wait_timeout = 31536000"},
}
"""How a writer connects. PostgreSQL lets go of a lock whose host has been silent for two minutes, instead of two hours;
MySQL would let go of one that is held by a search whose epochs take 8 hours, and does so after a year."""
READER = {
    "postgresql": {"options": "-c default_transaction_read_only=on"},
    "mysql": {"init_command": "SET SESSION TRANSACTION READ ONLY"},
}
"""How a reader connects, who cannot write."""


class _ClearText:
    """In place of PyMySQL's way to send the password as it is."""

    def __init__(self, _connection: object) -> None:
        pass

    def authenticate(self, _packet: object) -> object:
        raise PermissionError("the server asks for the password in clear text, which is never sent")


AUTHENTICATION: dict[str, dict[str, Any]] = {
    "postgresql": {"require_auth": "!password"},
    "mysql": {"auth_plugin_map": dict.fromkeys(("mysql_clear_password", "dialog"), _ClearText)},
}
"""How nobody connects: with a password that the server reads in clear text."""
DESCRIBING = (
    JournalOperation.SET_TRIAL_USER_ATTR,
    JournalOperation.SET_TRIAL_SYSTEM_ATTR,
    JournalOperation.SET_TRIAL_PARAM,
)
"""Lines of a file that mean nothing until a line of another kind follows."""
StorageLost = optuna.exceptions.StorageInternalError
"""The database stopped answering; what it acknowledged is recorded."""
TrialEnded = optuna.exceptions.UpdateFinishedTrialError
"""A trial has ended, so nothing more is recorded of it."""


def open_storage(
    place: JournalLocation, study: str, *, note: Callable[[str], None], check: Callable[[], None] | None = None
) -> BaseStorage:
    """Open the place of a study's record for its one writer.

    Args:
        place: Where.
        study: Name of the study; in a database it is locked until `close_storage`.
        note: Told in a sentence when a file had to be repaired.
        check: Called before each write to a file; does not return if the right to write was lost.

    Raises:
        InputError: If a file is damaged before its last line, or a database does not let us in, or another driver
            holds the study there.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if isinstance(place, Path):
        if place.exists():
            if torn := _cut_torn_line(place):
                note(f"{place}: cut off {torn} bytes of a last line that was not written to its end")
            _check_lines(place)
        backend = _Gatherer(str(place), lock_obj=_Check(check))
        sync(place)  # what is cut off, and lines that a killed process wrote and did not wait for
        sync(place.parent)
        return _Record(backend, place)
    storage = _open_database(place, WRITER)
    _lock(storage, study)
    return storage


def read_storage(place: JournalLocation) -> BaseStorage:
    """Open the place of a record for a reader: nothing can be written, repaired or locked through it.

    Raises:
        InputError: If a database does not let us in.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if isinstance(place, Path):
        return _Record(_Reader(place), place)
    return _open_database(place, READER, skip_table_creation=True)


def check_names(place: JournalLocation, known: Sequence[str], study: str) -> None:
    """Check that a file, unless it is new, holds the study.

    Raises:
        InputError: If it holds another one, or none.
    """
    if not isinstance(place, Path) or study in known or not place.exists() or not place.stat().st_size:
        return
    if known:
        others = ", ".join(map(str, known))
        raise InputError(f"{place} holds the study {others}, not {study}: use its name, or another folder")
    raise InputError(f"{place} holds no study: restore the file from a copy, or use another --name")


def holds_study(url: str, study: str) -> bool:
    """Answer whether a database holds the record of a study; its tables are made if they are missing.

    Raises:
        InputError: If the database does not let us in.
    """
    storage = _open_database(url, WRITER)
    try:
        return study in [frozen.study_name for frozen in storage.get_all_studies()]
    finally:
        close_storage(storage)


def close_storage(storage: BaseStorage) -> None:
    """Let go of a database and of the lock in it."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def describe_loss(error: BaseException) -> str:
    """Return in one line what the server, or the library that talks to it, said."""
    reason = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    return " ".join(str(reason).split())


def _open_database(url: str, arguments: dict[str, dict[str, str]], *, skip_table_creation: bool = False) -> RDBStorage:
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import StaticPool

    check_database_url(url)
    known = make_url(url)
    full = known.set(drivername=DRIVERS[known.drivername], password=os.environ.get(PASSWORD))
    connection = arguments[known.drivername] | AUTHENTICATION[known.drivername]
    kwargs = {"poolclass": StaticPool, "connect_args": connection}  # one connection: the one that holds the lock
    where = f"{known.host or 'localhost'}/{known.database}"
    try:
        return _Database(full.render_as_string(hide_password=False), kwargs, skip_table_creation=skip_table_creation)
    except ImportError:
        raise InputError(
            f"storage: {known.drivername} needs a library: pip install 'cifake-search[database]'"
        ) from None
    except (SQLAlchemyError, StorageLost) as error:
        raise InputError(f"storage: cannot use the database {where}: {describe_loss(error)}") from None


def _lock(storage: RDBStorage, study: str) -> None:
    """Lock a study for as long as the storage's connection lasts.

    Raises:
        InputError: If another connection holds the lock.
    """
    from sqlalchemy import event, text

    digest = hashlib.sha256(f"cifake-search {storage.engine.url.database} {study}".encode()).digest()
    is_postgresql = storage.engine.dialect.name == "postgresql"
    key = int.from_bytes(digest[:8], signed=True) if is_postgresql else digest.hex()[:60]
    query = text("SELECT pg_try_advisory_lock(:key)" if is_postgresql else "SELECT GET_LOCK(:key, 0)")
    deadline = time.monotonic() + LOCK_PATIENCE_S
    with storage.engine.connect() as connection:
        while not (is_mine := connection.execute(query, {"key": key}).scalar()) and time.monotonic() < deadline:
            time.sleep(0.1)
        connection.commit()
    event.listen(storage.engine, "do_connect", _refuse)  # Optuna tries again, and would without the lock
    if not is_mine:
        close_storage(storage)
        raise InputError(f"the study {study} in the database is being searched: stop that search first, or wait for it")


def _refuse(*_: Any) -> None:
    raise StorageLost("the connection was cut, and with it the lock on the study was lost")


class _Record(JournalStorage):
    """Optuna's storage of a file, which names the line that it cannot take in."""

    def __init__(self, backend: BaseJournalBackend, path: Path) -> None:
        self._path = path
        super().__init__(backend)

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except (OSError, InputError, TrialEnded):
            raise
        except Exception as error:  # noqa: BLE001 what Optuna raises on a foreign line is nowhere said
            raise InputError(
                f"{self._path} has a line {self._replay_result.log_number_read} that Optuna cannot take in "
                f"({type(error).__name__}: {error}): {CURE}"
            ) from None


class _Database(RDBStorage):
    """Lets a parameter have other choices or another scale than in an earlier trial, as a file does.

    A study whose space was changed by hand goes on in it. Every trial is stored with its own distributions.
    """

    def _set_trial_param_without_commit(
        self,
        session: Any,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,  # noqa: ARG002 Optuna's name
    ) -> None:
        super()._set_trial_param_without_commit(
            session, trial_id, param_name, param_value_internal, distribution, previous_distribution=distribution
        )


class _Check(BaseJournalFileLock):
    """No lock around a write, for study.lock keeps other drivers out; but a look at it, for it may have been lost."""

    def __init__(self, check: Callable[[], None] | None) -> None:
        self._check = check

    def acquire(self) -> bool:
        if self._check is not None:
            self._check()
        return True

    def release(self) -> None:
        pass


class _Gatherer(JournalFileBackend):
    """Writes the lines that describe a fact together with the one that makes it count, and waits for the disk once.

    What was held back when the process was killed did not count yet, and is written again. After a write that failed
    nothing more is written: it may have left half a line, which is cut off when the study is opened again.
    """

    def __init__(self, path: str, lock_obj: BaseJournalFileLock) -> None:
        super().__init__(path, lock_obj)
        self._held: list[dict[str, Any]] = []
        self._failure: OSError | None = None

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        number = log_number_from
        try:
            for record in super().read_logs(log_number_from):
                number += 1
                yield record
        except ValueError:  # another program has written since the file was opened
            raise _name_damage(Path(self._file_path), number + 1) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._failure is not None:
            raise self._failure
        self._held += logs
        if logs[-1]["op_code"] not in DESCRIBING:
            try:
                super().append_logs(self._held)
            except OSError as error:
                self._failure = error
                raise
            self._held = []


class _Reader(BaseJournalBackend):
    """The whole lines of a file that somebody else writes; a torn last one is not there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets = [0]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offsets[log_number_from])
            lines = iter(lambda: file.readline(LINE_BYTES), b"")
            for number, line in enumerate(lines, start=log_number_from):
                if (record := _parse(line)) is None:
                    if file.read(1):
                        raise _name_damage(self._path, number + 1)
                    return
                if number + 1 == len(self._offsets):
                    self._offsets.append(self._offsets[number] + len(line))
                yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError(f"{self._path} is open for reading only: {len(logs)} records refused")


def _cut_torn_line(path: Path) -> int:
    """Cut off a last line that was not written to its end and return how many bytes that was."""
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        before = content.rfind(b"\n", 0, max(whole - 1, 0)) + 1
        if _parse(content[before:whole]) is None:
            whole = before
        file.truncate(whole)
    return len(content) - whole


def _check_lines(path: Path) -> None:
    """Check that every line is a record: no kill damages one before the last, so nothing here could mend it.

    Raises:
        InputError: With the number of the first line that is not one.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if _parse(line) is None:
                raise _name_damage(path, number)


def _name_damage(path: Path, number: int) -> InputError:
    return InputError(f"{path} is damaged in line {number}, which no kill does: {CURE}")


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a whole line, None if it is none."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None

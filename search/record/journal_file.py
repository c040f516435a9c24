"""The journal as a file: written by one driver, read by any process, one line a fact."""

import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.storages.journal._storage import JournalOperation

from search.config.untrusted import LINE_BYTES
from trainables.errors import InputError

CURE = "restore the file from a copy, or use another --name"
DESCRIBING = (
    JournalOperation.SET_TRIAL_USER_ATTR,
    JournalOperation.SET_TRIAL_SYSTEM_ATTR,
    JournalOperation.SET_TRIAL_PARAM,
)
"""Kinds of lines that do not count until a line of another kind follows."""
TrialEnded = optuna.exceptions.UpdateFinishedTrialError
"""A trial has ended, so nothing more is recorded about it."""


class FileStorage(JournalStorage):
    """Optuna's storage of a file; its error names the line that Optuna cannot read."""

    def __init__(self, backend: BaseJournalBackend, path: Path) -> None:
        self._path = path
        super().__init__(backend)

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except (OSError, InputError, TrialEnded):
            raise
        except Exception as error:  # noqa: BLE001 which errors Optuna raises on a foreign line is not documented
            raise InputError(
                f"{self._path} has a line {self._replay_result.log_number_read} that Optuna cannot read "
                f"({type(error).__name__}: {error}): {CURE}"
            ) from None


class CheckedLock(BaseJournalFileLock):
    """Checks the lease before each write; it locks nothing, since the lease keeps other drivers out."""

    def __init__(self, check: Callable[[], None] | None) -> None:
        self._check = check

    def acquire(self) -> bool:
        """Check the lease; return that the write may begin."""
        if self._check is not None:
            self._check()
        return True

    def release(self) -> None:
        """Do nothing."""


class FileWriter(JournalFileBackend):
    """Writes the lines that describe a fact together with the line that makes it count, with one fsync for all.

    Lines that are held back when the process is killed do not count yet; the next search writes them again. After a
    failed write nothing more is written: it may have left half a line, which the next opening cuts off.
    """

    def __init__(self, path: str, lock_obj: BaseJournalFileLock) -> None:
        super().__init__(path, lock_obj)
        self._held: list[dict[str, Any]] = []
        self._failure: OSError | None = None

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the lines from a number on."""
        number = log_number_from
        try:
            for record in super().read_logs(log_number_from):
                number += 1
                yield record
        except ValueError:  # another program wrote after the file was opened
            raise _name_damage(Path(self._file_path), number + 1) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines, or hold them back until a line that makes them count follows."""
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


class FileReader(BaseJournalBackend):
    """Reads the complete lines of a file that another process writes; an incomplete last line is left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets = [0]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the lines from a number on."""
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
        """Refuse to write."""
        raise PermissionError(f"{self._path} is open for reading only: {len(logs)} lines refused")


def cut_torn_line(path: Path) -> int:
    """Cut off a last line that is incomplete and return its bytes."""
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        before = content.rfind(b"\n", 0, max(whole - 1, 0)) + 1
        if _parse(content[before:whole]) is None:
            whole = before
        file.truncate(whole)
    return len(content) - whole


def check_lines(path: Path) -> None:
    """Check that every line can be read: a kill damages only the last line, so other damage is not repaired.

    Raises:
        InputError: With the number of the first damaged line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if _parse(line) is None:
                raise _name_damage(path, number)


def _name_damage(path: Path, number: int) -> InputError:
    return InputError(f"{path} is damaged in line {number}, which a kill cannot cause: {CURE}")


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the content of a complete line, None for any other text."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None

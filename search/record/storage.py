"""Opens the storage of a journal: a file of the study's folder, or a database."""

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, RDBStorage

from search.config.urls import JournalLocation
from search.record.journal_file import (
    CURE,
    CheckedLock,
    FileReader,
    FileStorage,
    FileWriter,
    check_lines,
    cut_torn_line,
)
from trainables.durable import sync
from trainables.errors import InputError


def open_storage(
    place: JournalLocation, study: str, *, note: Callable[[str], None], check: Callable[[], None] | None
) -> BaseStorage:
    """Open a journal for its one writer.

    Args:
        place: The file, or the URL of the database.
        study: Name of the study; in a database it is locked until `close_storage`.
        note: Receives a sentence when a file had to be repaired.
        check: Called before each write to a file; does not return if the lease was lost.

    Raises:
        InputError: If a file is damaged before its last line, a database refuses the connection, or another driver
            holds the study there.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if isinstance(place, Path):
        if place.exists():
            if torn := cut_torn_line(place):
                note(f"{place}: cut off {torn} bytes of an incomplete last line")
            check_lines(place)
        backend = FileWriter(str(place), lock_obj=CheckedLock(check))
        sync(place)  # makes the cut durable, and lines that a killed process wrote without fsync
        sync(place.parent)
        return FileStorage(backend, place)
    from search.record.database import WRITER, lock_study, open_database

    storage = open_database(place, WRITER)
    lock_study(storage, study)
    return storage


def read_storage(place: JournalLocation) -> BaseStorage:
    """Open a journal for a reader: nothing can be written, repaired or locked through it.

    Raises:
        InputError: If a database does not let us in.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if isinstance(place, Path):
        return FileStorage(FileReader(place), place)
    from search.record.database import READER, open_database

    return open_database(place, READER, skip_table_creation=True)


def has_study(storage: BaseStorage, place: JournalLocation, study: str) -> bool:
    """Return whether a journal has a study.

    Raises:
        InputError: If a file has another study, or has no study although it is not new.
    """
    known = [frozen.study_name for frozen in storage.get_all_studies()]
    if study in known or not isinstance(place, Path) or not place.exists() or not place.stat().st_size:
        return study in known
    if known:
        others = ", ".join(map(str, known))
        raise InputError(f"{place} has the study {others}, not {study}: use its name, or another folder")
    raise InputError(f"{place} has no study: {CURE}")


def holds_study(url: str, study: str) -> bool:
    """Return whether a database has the journal of a study; missing tables are created.

    Raises:
        InputError: If the database does not let us in.
    """
    from search.record.database import WRITER, open_database

    storage = open_database(url, WRITER)
    try:
        return has_study(storage, url, study)
    finally:
        close_storage(storage)


def close_storage(storage: BaseStorage) -> None:
    """Close the connection to a database, which releases the lock; a file needs no closing."""
    if isinstance(storage, RDBStorage):
        from search.record.database import close_database

        close_database(storage)

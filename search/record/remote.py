"""What an object store holds of a study: files, and the journal as parts named by the byte they begin at."""

from pathlib import Path

from search.record.object_store import Store, StoreError, StoreSlot
from trainables.durable import write_file
from trainables.errors import InputError

JOURNAL, PARTS, CHECKPOINTS = "study.journal", "journal/", "checkpoints/"


def bring_study(url: str, folder: Path) -> Path:
    """Bring all of a study but its checkpoints from an object store into a folder, for who only looks; return where.

    Raises:
        InputError: If the store cannot be asked, or holds no study there.
    """
    store = Store(url)
    target = folder / url.rstrip("/").rpartition("/")[2]
    try:
        store.download({name: target / name for name in list_files(store)})
        write_file(target / JOURNAL, read_parts(store))
    except StoreError as error:
        raise InputError(str(error)) from None
    return target


class View:
    """A study in an object store for who only looks: its record in a folder of its own, as far as it is shipped."""

    def __init__(self, url: str, folder: Path) -> None:
        self.slot = StoreSlot(Store(url))
        self._store = Store(url)
        self._journal = folder / JOURNAL
        self._journal.touch()
        self.refresh()

    def refresh(self) -> None:
        """Add what was shipped since."""
        with self._journal.open("ab") as file:
            file.write(read_parts(self._store, file.tell()))


def list_files(store: Store) -> list[str]:
    """Return the names of what lies there as a file of the study's folder, but for checkpoints, lock and probes."""
    return [name for name in store.list() if not name.startswith((PARTS, CHECKPOINTS, "study.lock", "."))]


def name_part(offset: int) -> str:
    """Return the name of the part of the journal that begins at a byte; names sort as the parts do."""
    return f"{PARTS}{offset:020}"


def read_parts(store: Store, start: int = 0) -> bytes:
    """Return the journal from a byte on, at which a part must begin, as far as the parts follow one another."""
    names = [name for name in store.list(PARTS) if name >= name_part(start)]
    parts = store.read_all(names)
    content = b""
    while (part := parts.get(name_part(start + len(content)))) is not None:
        content += part
    return content

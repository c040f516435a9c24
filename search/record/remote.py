"""What an object store has of a study: files, a lease, the journal in parts named by the byte at which they begin."""

from pathlib import Path

from search.config.schema import JOURNAL, LEASE, REQUESTS
from search.record.errors import StoreError
from search.record.object_store import Store
from trainables.durable import write_file
from trainables.errors import InputError

PARTS, CHECKPOINTS = "journal/", "checkpoints/"


def download_study(url: str, folder: Path) -> Path:
    """Download a study, without checkpoints, for read-only use; return its path.

    Raises:
        InputError: If the store does not answer, or has no study there.
    """
    store = Store(url)
    target = folder / url.rstrip("/").rpartition("/")[2]
    try:
        store.download({name: target / name for name in list_files(store)})
        write_file(target / JOURNAL, read_parts(store))
    except StoreError as error:
        raise InputError(str(error)) from None
    return target


class StoreSlot:
    """A lease that is an object, taken on a condition that the store checks."""

    def __init__(self, store: Store) -> None:
        self.folder = store.url
        self._store = store
        self._mine = self._tried = b""

    def read(self) -> bytes | None:
        """Return the content, None if the lease is free."""
        return self._store.read(LEASE)

    def create(self, content: bytes) -> bool:
        """Take a free lease; a request that was sent twice finds its own content."""
        self._mine = self._tried = content
        return self._store.create(LEASE, content) or self.read() == content

    def replace(self, before: bytes, content: bytes) -> bool:
        """Take over a lease whose content is still `before`."""
        self._mine = self._tried = content
        return self._store.swap(LEASE, before, content) or self.read() == content

    def refresh(self, content: bytes) -> None:
        """Write a heartbeat over the previous one; the lease of another process stays as it is.

        The previous one is the last, or the last but one where a request or its answer was lost.
        """
        there = self.read()
        if there is not None and there in (self._mine, self._tried):
            self._mine, self._tried = there, content
            self._store.swap(LEASE, there, content)

    def remove(self) -> None:
        """Delete the lease; the caller has checked that it is its own."""
        self._store.delete([LEASE])


class JournalView:
    """The journal of a study in an object store, downloaded for reading; it has the parts that were shipped so far."""

    def __init__(self, url: str, folder: Path) -> None:
        self.slot = StoreSlot(Store(url))
        self._store = Store(url)
        self._journal = folder / JOURNAL
        self._journal.touch()
        self.refresh()

    def refresh(self) -> None:
        """Add the parts that were shipped since."""
        with self._journal.open("ab") as file:
            file.write(read_parts(self._store, file.tell()))


def list_files(store: Store) -> list[str]:
    """Return the names of the files of the study's folder, without checkpoints, lease, requests and probes."""
    return [name for name in store.list() if not name.startswith((PARTS, CHECKPOINTS, LEASE, f"{REQUESTS}/", "."))]


def name_part(offset: int) -> str:
    """Return the name of the part of the journal that begins at a byte; names sort as the parts do."""
    return f"{PARTS}{offset:020}"


def read_parts(store: Store, start: int = 0) -> bytes:
    """Return the journal from a byte on, at which a part must begin, up to the first missing part."""
    names = [name for name in store.list(PARTS) if name >= name_part(start)]
    parts = store.read_all(names)
    content = b""
    while (part := parts.get(name_part(start + len(content)))) is not None:
        content += part
    return content

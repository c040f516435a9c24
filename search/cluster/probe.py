"""Files in a folder or an object store, with which a process checks whether it shares the results with the driver."""

import dataclasses
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search.config.schema import MANIFEST
from search.config.urls import is_url
from search.record.object_store import Store
from trainables.durable import make_folder
from trainables.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """A file that a process writes into the results, for the driver to read."""

    folder: str
    name: str
    content: bytes

    def write(self) -> None:
        """Write the file."""
        if is_url(self.folder):
            Store(self.folder).write(self.name, self.content)
        else:
            (Path(self.folder) / self.name).write_bytes(self.content)

    def has_arrived(self) -> bool:
        """Return whether the file can be read here."""
        try:
            return read_file(self.folder, self.name) == self.content
        except OSError:
            return False

    def delete(self) -> None:
        """Delete the file."""
        with suppress(OSError, InputError):
            if is_url(self.folder):
                Store(self.folder).delete([self.name])
            else:
                (Path(self.folder) / self.name).unlink()


def read_file(folder: str, name: str) -> bytes | None:
    """Return the content of a file in the results; None if a store has no such object."""
    return Store(folder).read(name) if is_url(folder) else (Path(folder) / name).read_bytes()


@contextmanager
def open_scratch(results: str) -> Iterator[str]:
    """Yield a new folder in the results that contains a study.yaml; delete it after the block."""
    folder = f"{results.rstrip('/')}/.reaching-{secrets.token_hex(4)}"
    try:
        if not is_url(folder):
            make_folder(Path(folder))
        Probe(folder, MANIFEST, b"").write()
        yield folder
    finally:
        if is_url(folder):
            Store(folder).delete(Store(folder).list())
        else:
            shutil.rmtree(folder, ignore_errors=True)

"""A stored study as a reader finds it, in a folder or an object store: its configuration, its journal, its files."""

import copy
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.config.load import apply_settings, parse
from search.config.schema import JOURNAL, LEASE, MANIFEST, StudyConfig
from search.config.untrusted import MANIFEST_BYTES, check_storage
from search.config.urls import check_store_url, is_url
from search.record.errors import StoreError
from search.record.journal import Journal
from search.record.lease import Holder, find_holder
from search.record.manifest import load_manifest
from search.record.object_store import Store
from search.record.remote import JournalView, download_study
from trainables.errors import InputError


@dataclasses.dataclass(slots=True, kw_only=True)
class StudyReader:
    """A study that another process may be writing; nothing is written, locked or repaired."""

    config: StudyConfig
    directory: Path
    """Its folder, or where its files were downloaded to."""
    view: JournalView | None
    """Downloads the journal from the object store; None for a study in a folder."""
    journal: Journal | None = None
    """None until there is one."""

    def refresh(self) -> None:
        """Read what was recorded since."""
        if self.view is not None:
            self.view.refresh()
        if self.journal is None:
            self.journal = Journal.read(self.config.storage or self.directory / JOURNAL, self.config.name)

    def find_holder(self) -> Holder | None:
        """Return which process writes the study, None if none does."""
        return find_holder(self.view.slot if self.view else self.directory / LEASE)


@contextmanager
def read_study(place: str | Path) -> Iterator[StudyReader]:
    """Open a study, given its folder or URL, for reading, for as long as the block lasts; `refresh` reads its journal.

    Raises:
        InputError: If there is no study, or its study.yaml is damaged.
    """
    config, _ = load_study(place)
    with tempfile.TemporaryDirectory(prefix="cifake-search-") as scratch:
        view = JournalView(config.url, Path(scratch)) if config.url else None
        directory = Path(scratch) if view else Path(place)
        yield StudyReader(config=config, directory=directory, view=view)


@contextmanager
def fetch_folder(place: str) -> Iterator[Path]:
    """Yield a study's folder; of one in an object store a copy without checkpoints, for as long as the block lasts."""
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="cifake-search-") as scratch:
        yield download_study(place, Path(scratch))


def load_study(
    place: Path | str, settings: Sequence[str] = (), *, uses_journal: bool = True
) -> tuple[StudyConfig, dict[str, Any]]:
    """Read the configuration of a stored study; its folder may have been moved.

    Args:
        place: The folder, or the URL of the study.
        settings: Overrides of its configuration, such as `evaluation.seeds=5`. Files in them are named relative to the
            working directory.
        uses_journal: Whether the caller opens the journal; where that is in a database, the user must name it.

    Returns:
        The configuration with the overrides, and the manifest as it is stored.

    Raises:
        InputError: If there is no study, its study.yaml is damaged, the folder does not have the study's name, or the
            journal is in a database that the user did not name.
    """
    if is_url(str(place)):
        results, _, name = str(place).rstrip("/").rpartition("/")
        manifest = fetch_manifest(str(place))
    else:
        directory = Path(place)
        if not os.path.lexists(directory / MANIFEST):
            raise InputError(f"there is no study in {directory}: expected the folder results/NAME of one")
        manifest = load_manifest(directory)
        results, name = str(directory.parent), directory.resolve().name
    config = _configure(manifest, settings, results)
    if config.name != name:
        raise InputError(f"{place} has the study {config.name}: give its folder that name again")
    if uses_journal:
        check_storage(config.storage, settings)
    return config, manifest


def load_classifiers(place: Path | str, settings: Sequence[str] = (), *, uses_journal: bool = True) -> StudyConfig:
    """Do what `load_study` does, for a study whose models are trained again.

    Raises:
        InputError: As `load_study`, or if it searched a training function, which has no model of ours.
    """
    config, _ = load_study(place, settings, uses_journal=uses_journal)
    if config.trainable is not None:
        raise InputError(f"{place} searched the training function {config.trainable}: it has no models")
    return config


def fetch_manifest(url: str) -> dict[str, Any]:
    """Download the manifest of a study in an object store.

    Raises:
        InputError: If it is missing or damaged, or the store does not answer.
    """
    check_store_url(url)
    try:
        content = Store(url).read(MANIFEST, limit=MANIFEST_BYTES)
    except StoreError as error:
        raise InputError(str(error)) from None
    if content is None:
        raise InputError(f"there is no study in {url}: expected s3://BUCKET/PREFIX/NAME of one")
    with tempfile.TemporaryDirectory(prefix="cifake-search-") as scratch:
        (Path(scratch) / MANIFEST).write_bytes(content)
        return load_manifest(Path(scratch))


def _configure(manifest: Mapping[str, Any], settings: Sequence[str], results: str) -> StudyConfig:
    """Return a recorded configuration with the user's overrides; cache and code are always the user's own."""
    document = copy.deepcopy(manifest["config"]) | {"code": None}
    if isinstance(document.get("data"), dict):
        document["data"].pop("cache", None)
    apply_settings(document, settings, Path())
    return parse(document | {"results": results})

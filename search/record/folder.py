"""A study that is open: `open_study` for its one writer, `read_study` for any reader.

Opening takes the lease, brings the folder into step with the object store if there is one, reads the manifest and opens
the journal. Closing ships what the store lacks, closes the journal and gives the lease back, in this order.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from search.config.schema import JOURNAL, LEARNT, LEASE, MANIFEST, StudyConfig
from search.config.urls import is_url
from search.record.journal import Journal
from search.record.learnt import load_learnt, save_learnt, select_trials
from search.record.lease import find_holder, hold
from search.record.manifest import build_manifest, compare_manifest, load_manifest, load_study, save_manifest
from search.record.metric import Metric
from search.record.mirror import Mirror
from search.record.object_store import Store
from search.record.remote import JournalView, download_study
from search.record.storage import holds_study
from search.record.trial import Trial
from trainables.durable import make_folder, sync
from trainables.errors import DISK_FULL, InputError
from trainables.files import hash_file

Note = Callable[[str], None]


@dataclasses.dataclass(slots=True, kw_only=True)
class OpenStudy:
    """A study that this process alone may write."""

    config: StudyConfig
    manifest: dict[str, Any]
    """What study.yaml says; `save_manifest` writes it."""
    journal: Journal
    learnt: tuple[Trial, ...] = ()
    """Trials of earlier studies, from which the samplers learn."""
    mirror: Mirror | None
    """Keeps the folder and the object store in step; None for a study in a folder."""

    def save_manifest(self) -> None:
        """Write study.yaml; when this returns, the object store has it too."""
        save_manifest(self.config.directory, self.manifest)
        if self.mirror:
            self.mirror.put(MANIFEST)

    def fetch_models(self) -> None:
        """Download the models that workers stored in the object store."""
        if self.mirror:
            self.mirror.fetch(list(self.mirror.store.list("models/")))


@contextmanager
def open_study(
    config: StudyConfig, note: Note, *, packed: Path | None = None, accept_changes: bool = False
) -> Iterator[OpenStudy]:
    """Open a study for writing, for as long as the block lasts.

    Args:
        config: The study.
        note: Receives sentences for the user, such as that the journal had to be repaired.
        packed: Folder of the packed images, if a search starts or continues: then a missing study is created, and one
            that exists must have the same settings, images and code. None opens an existing study as it is, unless it
            has a training function, which nothing but a search opens for writing.
        accept_changes: Whether a search continues although settings, images or code differ; the journal records it.

    Raises:
        InputError: If another process writes the study, something of it is missing or damaged, or it differs.
    """
    mirror = Mirror(config, note) if config.url else None
    is_search = packed is not None or config.trainable is not None
    if is_search:
        _create(config, packed, mirror, note)
    changes: list[str] = []
    with ExitStack() as stack:
        lease = stack.enter_context(hold(mirror.slot if mirror else config.directory / LEASE, note))
        if mirror:
            mirror.restore()
        if not is_search:
            manifest = load_manifest(config.directory)
            _check_journal(config)
        else:
            manifest, changes = compare_manifest(config, packed, accept_changes=accept_changes)
        # With an object store the journal here is this machine's own, which no outage of the store may keep waiting:
        # the mirror checks the lease before it ships.
        journal = Journal(
            config.journal,
            config.name,
            note=note,
            check=None if mirror else lease.check,
            metric=Metric(config.search.metric, config.search.sign),
        )
        stack.callback(journal.close)
        if mirror:
            stack.callback(mirror.close)
            mirror.start(lease.check)
        learnt = load_learnt(config.directory, manifest)
        study = OpenStudy(config=config, manifest=manifest, journal=journal, learnt=learnt, mirror=mirror)
        if mirror and learnt:
            mirror.put(LEARNT)
        if changes:
            journal.add_change(changes)
        if is_search:
            study.save_manifest()
        yield study


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

    def find_holder(self) -> str | None:
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


def check_absent(config: StudyConfig, *, resume: bool) -> None:
    """Check that a new search overwrites no study.

    Raises:
        InputError: If the study exists and `resume` is not set, its object store cannot be used, or the database holds
            the journal of a study of this name whose folder is missing.
    """
    store = Store(config.url) if config.url else None
    if store:
        store.check()
    exists = config.directory.exists() or (store is not None and store.read(MANIFEST) is not None)
    if exists and not resume:
        raise InputError(f"{config.location} exists: --resume continues it, --name NAME starts another study")
    if config.storage and not exists and holds_study(config.storage, config.name):
        raise InputError(
            f"the database holds a study {config.name}, but {config.location} does not exist: "
            "restore that folder, or start another study with --name NAME"
        )


def learn(config: StudyConfig, note: Note) -> tuple[list[Trial], dict[str, str | None]]:
    """Return the trials of the studies of `search.learn_from`, and the hashes of their journals.

    Raises:
        InputError: If one is missing or damaged, has another metric or goal, or is the study itself.
    """
    found: list[Trial] = []
    hashes: dict[str, str | None] = {}
    for place in config.search.learn_from:
        if place.rstrip("/") == config.url or Path(place).resolve() == config.directory.resolve():
            raise InputError(f"search.learn_from: {place} is this study itself: leave it out")
        try:
            with read_study(place) as study:
                study.refresh()
                trials = study.journal.load() if study.journal else []
                if study.journal:
                    study.journal.close()
                file = study.directory / JOURNAL
                hashes[place] = hash_file(file) if file.exists() else None
        except InputError as error:
            raise InputError(f"search.learn_from: {error}") from None
        for key, name in (("metric", "metric"), ("sign", "goal")):
            if getattr(study.config.search, key) != getattr(config.search, key):
                raise InputError(f"search.learn_from: {place} has another search.{name}: leave it out")
        known, num_outside = select_trials(config, place, trials)
        note(f"{place}: the samplers learn from {len(known)} trials; {num_outside} are outside this study's space")
        found += known
    return found, hashes


def create_folder(
    config: StudyConfig, packed: Path | None, learnt: tuple[list[Trial], dict[str, str | None]] | None = None
) -> None:
    """Create the study's folder with its study.yaml, and learnt.json if there is one, in one step, unless it exists.

    Raises:
        InputError: If it cannot be written.
    """
    directory = config.directory
    if (directory / MANIFEST).exists():
        return
    if directory.exists():
        raise InputError(f"{directory} has no {MANIFEST}, so it is not a study's folder: use another --name")
    try:
        make_folder(directory.parent)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".starting-") as scratch:
            staged = Path(scratch) / directory.name
            staged.mkdir()
            known = {"learnt": save_learnt(staged, *learnt)} if learnt else {}
            save_manifest(staged, build_manifest(config, packed) | known)
            staged.rename(directory)
            sync(directory.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cannot write the results into {directory}: {reason}") from None


def _create(config: StudyConfig, packed: Path | None, mirror: Mirror | None, note: Note) -> None:
    """Create the folder of a study that neither this machine nor the object store has."""
    if mirror and not (config.directory / MANIFEST).exists():
        mirror.fetch([MANIFEST])
    if not (config.directory / MANIFEST).exists():
        create_folder(config, packed, learn(config, note) if config.search.learn_from else None)


def _check_journal(config: StudyConfig) -> None:
    if isinstance(config.journal, Path) and not config.journal.exists():
        raise InputError(f"{config.location} has no {config.journal.name}: nothing was searched there")

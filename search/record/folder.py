"""A study that is open for its one writer; `search.record.reading` opens it for any reader.

Opening takes the lease, synchronises the folder with the object store if there is one, reads the manifest and opens the
journal. Closing uploads the rest to the store, closes the journal and releases the lease, in this order.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.config.schema import LEARNT, LEASE, MANIFEST, StudyConfig
from search.record.errors import explain_denied
from search.record.journal import Journal
from search.record.learnt import load_learnt, save_learnt
from search.record.lease import hold
from search.record.manifest import build_manifest, compare_manifest, load_manifest, save_manifest
from search.record.metric import Metric
from search.record.storage import holds_study
from search.record.trial import Trial
from trainables.durable import make_folder, sync
from trainables.errors import InputError

if TYPE_CHECKING:  # only a study in an object store has a mirror
    from search.record.mirror import Mirror

Note = Callable[[str], None]


@dataclasses.dataclass(slots=True, kw_only=True)
class OpenStudy:
    """A study that this process alone may write."""

    config: StudyConfig
    manifest: dict[str, Any]
    """Content of study.yaml; `save_manifest` writes it."""
    journal: Journal
    learnt: tuple[Trial, ...] = ()
    """Trials of earlier studies, from which the samplers learn."""
    mirror: "Mirror | None" = None
    """Keeps the folder and the object store in step; None without a store."""

    def save_manifest(self) -> None:
        """Write study.yaml; when this returns, the object store has it too."""
        save_manifest(self.config.directory, self.manifest)
        if self.mirror:
            self.mirror.put(MANIFEST)

    def fetch_models(self) -> None:
        """Download the models that workers stored in the object store."""
        if self.mirror:
            self.mirror.fetch([*self.mirror.store.list("models/")])


@contextmanager
def open_study(
    config: StudyConfig,
    note: Note,
    *,
    is_search: bool = False,
    packed: Path | None = None,
    accept_changes: bool = False,
) -> Iterator[OpenStudy]:
    """Open a study for writing, for as long as the block lasts.

    Args:
        config: The study.
        note: Receives sentences for the user, such as that the journal had to be repaired.
        is_search: Whether a search starts or continues: then a missing study is created, and an existing one must have
            the same settings, images and code. Else an existing study is opened as it is.
        packed: Folder of the packed images of a search; None for a training function, which has none.
        accept_changes: Whether a search continues although settings, images or code differ; the journal records that.

    Raises:
        InputError: If another process writes the study, a part of it is missing or damaged, or it differs.
    """
    mirror = _build_mirror(config, note) if config.url else None
    if is_search:
        _create(config, packed, mirror, note)
    with ExitStack() as stack:
        slot = mirror.slot if mirror else config.directory / LEASE
        lease = stack.enter_context(hold(slot, note, is_search=is_search))
        if mirror:
            mirror.restore()
        if is_search:
            manifest, changes = compare_manifest(config, packed, accept_changes=accept_changes)
        else:
            manifest, changes = _load_begun(config), []
        # With an object store the journal is a local file, which must not wait if the store cannot be reached: so not
        # the journal but the mirror checks the lease, before each upload.
        check, metric = None if mirror else lease.check, Metric(config.search.metric, config.search.sign)
        journal = Journal(config.journal, config.name, note=note, check=check, metric=metric)
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


def check_absent(config: StudyConfig, *, resume: bool) -> None:
    """Check that a new search overwrites no study.

    Raises:
        InputError: If the study exists and `resume` is not set, its object store cannot be used, or the database holds
            the journal of a study of this name whose folder is missing.
    """
    exists = config.directory.exists()
    if config.url:
        from search.record.object_store import Store

        Store(config.url).check()
        exists = exists or Store(config.url).read(MANIFEST) is not None
    if exists and not resume:
        raise InputError(f"{config.location} exists: --resume continues it, --name NAME starts another study")
    if config.storage and not exists and holds_study(config.storage, config.name):
        raise InputError(
            f"the database holds a study {config.name}, but {config.location} does not exist: "
            "restore that folder, or start another study with --name NAME"
        )


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
    cure = "make it writable, or set results to another folder"
    with explain_denied(f"cannot write the results into {directory}", cure):
        make_folder(directory.parent)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".starting-") as scratch:
            staged = Path(scratch) / directory.name
            staged.mkdir()
            known = {"learnt": save_learnt(staged, *learnt)} if learnt else {}
            save_manifest(staged, build_manifest(config, packed) | known)
            staged.rename(directory)
            sync(directory.parent)


def _load_begun(config: StudyConfig) -> dict[str, Any]:
    """Return the manifest of a study whose search has started."""
    manifest = load_manifest(config.directory)
    if isinstance(config.journal, Path) and not config.journal.exists():
        raise InputError(f"{config.location} has no {config.journal.name}: no search has started there")
    return manifest


def _build_mirror(config: StudyConfig, note: Note) -> "Mirror":
    from search.record.mirror import Mirror

    return Mirror(config, note)


def _create(config: StudyConfig, packed: Path | None, mirror: "Mirror | None", note: Note) -> None:
    """Create the folder of a study that neither this machine nor the object store has."""
    if mirror and not (config.directory / MANIFEST).exists():
        mirror.fetch([MANIFEST])
    if not (config.directory / MANIFEST).exists():
        learnt = None
        if config.search.learn_from:
            from search.record.warm_start import learn

            learnt = learn(config, note)
        create_folder(config, packed, learnt)

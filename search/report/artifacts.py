"""Artifacts that optuna-dashboard shows on a study's page: each evaluated model's confusion matrix."""

import uuid
from collections.abc import Iterable
from pathlib import Path

from search.record.journal import Journal
from trainables.durable import write_file


def publish(files: Iterable[Path], folder: Path, journal: Journal) -> None:
    """Store files as artifacts of a study and record their names; those of an earlier evaluation are replaced.

    Optuna's FileSystemArtifactStore reads the folder.
    """
    for path in files:
        artifact_id = str(uuid.uuid5(uuid.NAMESPACE_URL, path.name))
        write_file(folder / artifact_id, path.read_bytes())  # before the journal names it
        journal.add_artifact(artifact_id, path.name)

"""Pictures that optuna-dashboard shows on the page of a study: each evaluated model's confusion matrix."""

import uuid
from collections.abc import Iterable
from pathlib import Path

from search.record.journal import Journal
from trainables.durable import write_file


def publish(files: Iterable[Path], folder: Path, journal: Journal) -> None:
    """Put files into a study's artifact store and their names into its record.

    The driver calls it when its evaluation is written; again, after another evaluation, it replaces what is there.

    Args:
        files: The report's pictures.
        folder: The artifact store, which Optuna's FileSystemArtifactStore reads.
        journal: The record, open for writing.
    """
    for path in files:
        artifact_id = str(uuid.uuid5(uuid.NAMESPACE_URL, path.name))
        write_file(folder / artifact_id, path.read_bytes())  # before the record names it
        journal.add_artifact(artifact_id, path.name)

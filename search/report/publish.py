"""Writes the report of a result, shows its table, and stores its pictures for optuna-dashboard."""

import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from search.config.printable import escape
from search.config.schema import StudyConfig
from search.evaluation.result import Result
from search.record.folder import OpenStudy
from search.record.journal import Journal
from search.record.trial import State, Trial
from search.report.cells import align
from search.report.ending import list_ending
from search.report.front import describe_uncounted
from search.report.notes import describe_changes, list_notes
from search.report.overview import list_quotes
from search.report.page import write_page
from search.report.searches import list_search_tables, tabulate_best
from search.report.sources import describe_sources
from search.report.tables import write_report
from search.report.terminal import render
from trainables.durable import write_file
from trainables.errors import InputError


def publish_report(result: Result, journal: Journal, console: Console) -> Result:
    """Write the report, show its table, and store its confusion matrices where optuna-dashboard finds them.

    Returns:
        The result with all of its notes.
    """
    config = result.config
    notes = [
        *list_notes(config, result.manifest, result.trials, result.models, changes := journal.list_changes()),
        *describe_sources(result),
        *describe_uncounted(config, result.trials),
        *describe_changes(changes),
        *_add_ending(config, result.trials, journal, result.notes),
    ]
    result = dataclasses.replace(result, notes=notes)
    files = write_report(result, config.directory / "report")
    console.print(render(result))
    console.print(Text("\n".join(map(escape, ["", *list_quotes(result)]))), soft_wrap=True)  # one line per sentence
    confusions = [path for path in files if path.name.endswith("_confusion.png")]
    store_artifacts(confusions, config.directory / "artifacts", journal)
    console.print(f"Open {config.location}/report/report.html", soft_wrap=True)
    return result


def store_artifacts(files: Sequence[Path], folder: Path, journal: Journal) -> None:
    """Store files as artifacts of a study and record their names; those of an earlier evaluation are replaced.

    Optuna's FileSystemArtifactStore reads the folder.
    """
    for path in files:
        artifact_id = str(uuid.uuid5(uuid.NAMESPACE_URL, path.name))
        write_file(folder / artifact_id, path.read_bytes())  # before the journal names it
        journal.add_artifact(artifact_id, path.name)


def publish_search(study: OpenStudy, console: Console, notes: Sequence[str]) -> None:
    """Write the report of a search whose winners are not retrained, and show its best trials."""
    trials = study.journal.load()
    result = Result(
        study=study.config.name,
        config=study.config,
        manifest=study.manifest,
        models=[],
        trials=trials,
        labels=np.zeros(0, np.uint8),
        predictions={},
        mistakes={},
        notes=[
            *describe_uncounted(study.config, trials),
            *describe_changes(study.journal.list_changes()),
            *_add_ending(study.config, trials, study.journal, notes),
        ],
    )
    best = tabulate_best(result)
    if not best.rows:
        reason = next((trial.reason for trial in result.trials if trial.state is State.FAIL), "none has ended")
        raise InputError(f"no trial of {study.config.location} has a value: {reason}")
    page = study.config.directory / "report/report.html"
    write_page(result, page, results=[best], search=list_search_tables(result))
    lines = ["  ".join(cells).rstrip() for cells in align([best.header, *best.rows])]
    console.print(Text("\n".join(map(escape, [*lines, "", *result.notes]))))
    console.print(f"Open {study.config.location}/report/report.html", soft_wrap=True)


def _add_ending(config: StudyConfig, trials: Sequence[Trial], journal: Journal, notes: Sequence[str]) -> list[str]:
    """Return notes with the one about the end of the search; `search.run` has added it already, `evaluate` has not."""
    return list(dict.fromkeys([*notes, *list_ending(config, trials, journal)]))

"""Writes the report of a result and shows its table."""

import dataclasses

from rich.console import Console

from search.evaluation.result import Result
from search.record.journal import Journal
from search.report.artifacts import publish
from search.report.notes import describe_changes, list_notes
from search.report.tables import write_report
from search.report.terminal import render


def publish_report(result: Result, journal: Journal, console: Console) -> Result:
    """Write the report, show its table, and store its confusion matrices where optuna-dashboard finds them.

    Args:
        result: As `search.evaluation` returns it.
        journal: The study's journal, open for writing.
        console: Shows the table.

    Returns:
        The result with all of its notes.
    """
    config = result.config
    notes = [
        *list_notes(config, result.manifest, result.trials, result.models),
        *describe_changes(journal.list_changes()),
        *result.notes,
    ]
    result = dataclasses.replace(result, notes=notes)
    files = write_report(result, config.directory / "report")
    console.print(render(result))
    confusions = [path for path in files if path.name.endswith("_confusion.png")]
    publish(confusions, config.directory / "artifacts", journal)
    console.print(f"Open {config.location}/report/report.html", soft_wrap=True)
    return result

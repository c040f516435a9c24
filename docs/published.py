"""The README of a published study, computed from its records."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from search.config.schema import StudyConfig
from search.evaluation.choices import list_retrainings, read_entry
from search.evaluation.model_file import RECORD, WEIGHTS
from search.evaluation.result import Result
from search.record.journal import Journal
from search.record.provenance import describe_commit
from search.record.trial import State
from search.report.cells import (
    Table,
    format_amount,
    format_count,
    format_duration,
    format_interval,
    format_percent,
    format_pipes,
)
from search.report.notes import describe_changes
from search.report.overview import list_quotes
from search.report.summary import SearchSummary, summarize_search
from search.samplers.shares import name_device
from trainables.names import shorten

NUM_IMPORTANT = 5
"""Most parameters that the README names for each architecture."""
CHANGED = (
    "So the search did not use the settings, images, code and versions of the command above from its first trial on."
)
"""Stands under the changes of a search."""
SUMMARY = "<!-- results -->"
"""Stands before and after the lines that the README of the repository repeats."""
WEIGHTS_BYTES = 6_000_000
"""Most bytes of the published weights."""
STORED_BYTES = 16_000_000
"""Most bytes of a file of models/ that is stored for an interrupted study: enough for a CNN's checkpoint."""


def name_no_machine(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the last part of each path of the machine that searched; the evaluations stay.

    The command has no options that say how to resume.
    """
    config = manifest["config"]
    data, command = dict(config["data"]), re.sub(r" --(resume|accept-changes|plain)\b", "", str(manifest["command"]))
    for path in (data["path"], data.pop("cache", ""), config["results"]):
        command = command.replace(path, Path(path).name) if Path(path).is_absolute() else command
    data["path"] = Path(data["path"]).name
    return {**manifest, "command": command, "config": {**config, "data": data, "results": "results"}}


def tabulate(frame: pd.DataFrame) -> list[str]:
    """Return the lines of the table of results, given comparison.csv; published results of others are left out."""
    header = ["model", "parameters", "seeds", "test accuracy, %", "95 % interval", "F1, %", "AUROC, %"]
    rows = [
        [
            row["model"] if row["source"] in ("this study", "ensemble") else f"{row['model']} ({row['source']})",
            format_count(row["parameters"]),
            format_count(row["seeds"]),
            format_percent(row["accuracy"], row["accuracy_std"]),
            format_interval(row["accuracy_low"], row["accuracy_high"]),
            format_percent(row["f1"]),
            format_percent(row["auroc"]),
        ]
        for row in frame[frame["source"] != "published"].to_dict("records")
    ]
    return format_pipes(Table(title="", header=header, rows=rows))


def describe(result: Result, journal: Journal, folder: Path, bundled: str) -> str:
    """Return the README of a published study."""
    name, searches = result.study, summarize_search(result.config, result.trials)
    architecture = shorten(next(iter(result.winners)))
    changes = describe_changes(journal.list_changes())
    lines = [
        f"# Published study {name}",
        *("", SUMMARY, *(line for quote in list_quotes(result) for line in (f"{quote}.", ""))),
        *(*tabulate(pd.read_csv(folder / "report/comparison.csv")), SUMMARY, ""),
        "± is the standard deviation over seeds, the interval a 95 % bootstrap over the test images. Notes, further",
        "tables and costs: [report/comparison.md](report/comparison.md).",
        *("", "![Accuracies](report/figures/accuracy.png)", "", "## How it was made", ""),
        *("```bash", str(name_no_machine(result.manifest)["command"]), "```", ""),
        *(f"- {fact}" for fact in list_facts(result, journal, folder)),
        *(f"- {change}" for change in changes),
        *([f"- {CHANGED}"] if changes else []),
        *("", "## What the scheduler saved", ""),
        *(f"- {_describe_saving(search)}" for search in searches),
        *("", "## What mattered most", ""),
        *(f"- {_describe_importance(search)}" for search in searches),
        *("", "## What failed", ""),
        *(f"- {failure}" for failure in list_failures(result)),
        *("", "## Use it", "", "```bash"),
        f"python -m search inspect reference/{name}",
        f"python -m search dashboard reference/{name}",
        f"python -m search reproduce reference/{name} --model {architecture} --seed 0 --data PATH",
        f"python -m search predict reference/{name}/models/{bundled}{WEIGHTS} photo.jpg",
        *("```", ""),
        "`study.journal` is a journal of Optuna; `trials.parquet` is a table with a row for each trial. `models/` has",
        f"the record of every model, and the weights of {bundled}: the best on validation of those of at most",
        f"{WEIGHTS_BYTES / 1e6:g} MB, with seed 0. `reproduce` compares others with the checksums in their records.",
        "Paths in `study.yaml` were shortened. `python -m docs.publish` wrote this folder.",
    ]
    return "\n".join(lines) + "\n"


def describe_open(config: StudyConfig, manifest: Mapping[str, Any], journal: Journal, missing: Sequence[str]) -> str:
    """Return the README of an interrupted study, given what its evaluation lacks."""
    trials = journal.load()
    ended = [trial for trial in trials if trial.state is not State.RUNNING]
    lines = [
        f"# Study {config.name}, not finished",
        "",
        f"{len(ended)} of {config.search.num_trials} trials have ended. The search has taken "
        f"{format_duration(journal.elapsed_s)}. {_describe_seal(manifest, missing)}",
        *("", "| model | trials | best on validation |", "|---|---|---|"),
    ]
    for architecture in config.search.architectures:
        mine = [trial for trial in trials if trial.architecture == architecture]
        best = max((trial for trial in mine if trial.epochs), key=lambda trial: trial.score, default=None)
        said = "" if best is None else f"{config.search.metric} {best.get_peak()[0]:.4f} (trial {best.number})"
        lines.append(f"| {shorten(architecture)} | {len(mine)} | {said} |")
    lines += [
        *("", "To continue the study on any machine, in a checkout:", "", "```bash"),
        f"mkdir -p results && cp -r reference/open/{config.name} results/",
        f"{name_no_machine(manifest)['command']} --resume --accept-changes",
        *("```", ""),
        f"Of the evaluation, weights and checkpoints of at most {STORED_BYTES / 1e6:g} MB are in `models/`. A tested",
        "model stays tested without its weights; a retraining without checkpoint begins again. Checkpoints of trials",
        "are not stored: trials that were running train their recorded epochs again, and these are not recorded twice.",
        "`python -m docs.publish --open` wrote this folder.",
    ]
    return "\n".join(lines) + "\n"


def _describe_seal(manifest: Mapping[str, Any], missing: Sequence[str]) -> str:
    if not (openings := [entry["opened"] for entry in manifest["evaluations"] if entry["opened"]]):
        return "The test split is sealed: no model of this study was tested."
    return (
        f"The test split was opened at {openings[-1]['time']}, and its choices are in `study.yaml`. "
        f"Missing on the machine that wrote this: {', '.join(missing)}."
    )


def list_facts(result: Result, journal: Journal, folder: Path) -> list[str]:
    """Return machines, images, times and code of a study."""
    records = [json.loads((folder / "models" / f"{each.label}{RECORD}").read_text()) for each in result.models]
    machines = {_describe_machine(record) for record in records}
    seconds = sum(each.cost["training_seconds"] for each in result.models)
    searched = sum(search.device_seconds for search in summarize_search(result.config, result.trials))
    resumptions = format_amount(count_resumptions(folder / "study.journal"), "time")
    limit = result.config.data.max_train_images
    images = format_count(limit) if limit else "all"
    first = min(filter(None, (trial.started for trial in result.trials))).astimezone(UTC)
    last = datetime.fromisoformat(result.choices["opened"]["time"]).astimezone(UTC)
    commits = {describe_commit(code) for code in (result.manifest["code"], *(record["code"] for record in records))}
    return [
        f"Search: {len(result.trials)} trials in {format_duration(journal.elapsed_s)}, {format_duration(searched)} of "
        f"{name_device(result.config)} time; continued {resumptions}.",
        f"Trials by machine: {_count_machines(result)}.",
        f"Evaluation: {format_amount(len(result.models), 'model')}, {format_duration(seconds)} of training, without "
        "the trainings on train alone and the scoring.",
        f"Machine of the evaluation: {'; '.join(sorted(machines))}.",
        f"Images for train and validation: {images} in the search, {result.choices['max_train_images'] or images} in "
        "the retrainings.",
        f"From {first:%Y-%m-%d %H:%M} to the opening of the test split at {last:%Y-%m-%d %H:%M}, in UTC.",
        f"Code: commit {', '.join(sorted(commits))}.",
    ]


def _describe_machine(record: Mapping[str, Any]) -> str:
    hardware = record["hardware"]
    precision = record["parameters"].get("precision", "unknown precision")
    return f"{hardware['name']} ({hardware['type']}, {precision}), threads of a training: {hardware['threads']}"


def _count_machines(result: Result) -> str:
    known = (map(trial.attributes.get, ("device", "precision")) for trial in result.trials)
    counts = Counter(", ".join(filter(None, each)) or "unknown" for each in known)
    return "; ".join(f"{number} on {name}" for name, number in counts.most_common())


def count_resumptions(journal: Path) -> int:
    """Return how often a search was continued: processes that recorded an epoch, without the first."""
    lines = map(json.loads, journal.read_text().splitlines())
    return len({line["worker_id"] for line in lines if "intermediate_value" in line}) - 1


def list_failures(result: Result) -> list[str]:
    """Return what failed."""
    failed = [
        f"Trial {trial.number} ({trial.architecture}): {trial.reason}."
        for trial in result.trials
        if trial.state is State.FAIL
    ]
    models = {model.label for model in result.models}
    retrainings = list_retrainings(result.config, result.trials, read_entry(result.choices))
    failed += [
        f"The retraining {each.label} has no model: it failed, or is not done yet."
        for each in retrainings
        if each.label not in models
    ]
    return failed or ["No trial and no retraining failed."]


def _describe_saving(search: SearchSummary) -> str:
    return (
        f"{search.architecture}: {search.stopped:.0%} of {search.trials} trials were stopped early. {search.epochs:,} "
        f"epochs took {format_duration(search.seconds)}; all {search.full_epochs:,} would have taken "
        f"{format_duration(search.full_seconds)}."
    )


def _describe_importance(search: SearchSummary) -> str:
    shares = [f"{name} {share:.0%}" for name, share in list(search.importance.items())[:NUM_IMPORTANT]]
    return f"{search.architecture}: {', '.join(shares) or str(search.missing).rstrip('.')}."


def read_summary(folder: Path) -> list[str]:
    """Return the lines of a published study that the README of the repository repeats."""
    return [line for line in (folder / "README.md").read_text().split(SUMMARY)[1].splitlines() if line]

"""Publishes an evaluated study in reference/, small enough for the repository, and its winner as a recipe.

    python -m docs.publish results/NAME

`inspect`, `dashboard`, `reproduce` and plain Optuna open the published folder like the study's own. It has the records
of all models but the weights of one: the best on validation of those that are small enough, with seed 0. Images of the
data set are not published. What `reference/NAME/README.md` says is computed, so no figure is typed by hand.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from search.config.yaml import format_yaml
from search.evaluation.choices import list_retrainings, read_entry
from search.evaluation.evaluate import load_result
from search.evaluation.model_file import CARD, RECORD, WEIGHTS
from search.evaluation.result import Result
from search.record.choices import Winner
from search.record.folder import open_study
from search.record.journal import Journal
from search.record.manifest import save_manifest
from search.record.provenance import describe_commit
from search.record.reading import load_classifiers
from search.record.trial import State
from search.report.cells import Table, format_count, format_duration, format_interval, format_percent, format_pipes
from search.report.notes import describe_changes
from search.report.overview import list_quotes
from search.report.publish import publish_report
from search.report.summary import SearchSummary, summarize_search
from search.report.trials import write_trials
from search.samplers.shares import name_device
from trainables.config import complete_params, list_defaults
from trainables.errors import InputError
from trainables.names import shorten

ROOT = Path(__file__).parents[1]
WEIGHTS_BYTES = 6_000_000
"""Most bytes of the published weights."""
NUM_IMPORTANT = 5
"""Most parameters that the README names for each architecture."""
COPIED = ("study.journal", "artifacts/*", "report/*.csv", "report/*.tex", "report/*.md", "report/figures/*.png")
"""Files of a study that are published as they are."""
SUMMARY = "<!-- results -->"
"""Stands before and after the lines that the README of the repository repeats."""


def publish(study: Path, root: Path, console: Console) -> Path:
    """Write reference/NAME and configs/recipes/NAME_ARCH.yaml below a folder; an earlier publication is replaced.

    Args:
        study: Folder of an evaluated study; its report is written again.
        root: The repository.
        console: Shows what `evaluate --report` shows.

    Returns:
        The published folder.

    Raises:
        InputError: If the study has a running trial, no result, or no model with weights that are small enough.
    """
    config = load_classifiers(study)
    with open_study(config, console.print) as opened:
        if running := [trial.number for trial in opened.journal.load() if trial.state is State.RUNNING]:
            raise InputError(f"{study}: trial {running[0]} has not ended: resume the search first")
        result = publish_report(load_result(opened), opened.journal, console)
        bundled = choose_bundled(study, result)
        target = root / "reference" / config.name
        shutil.rmtree(target, ignore_errors=True)
        _copy(study, target, [*COPIED, *(f"models/{model.label}{RECORD}" for model in result.models)])
        _copy(study, target, [f"models/{bundled}{suffix}" for suffix in (WEIGHTS, CARD)])
        write_trials(result.trials, target / "trials.parquet")
        save_manifest(target, name_no_machine(result.manifest))
        (target / "README.md").write_text(describe(result, opened.journal, target, bundled))
    winner = _rank(result)[0]
    recipe = root / "configs" / "recipes" / f"{config.name}_{shorten(winner.architecture)}.yaml"
    recipe.write_text(format_recipe(result, winner))
    return target


def choose_bundled(study: Path, result: Result) -> str:
    """Return the label of the model whose weights are published; the test has no say in it."""
    for winner in _rank(result):
        path = study / "models" / f"{winner.label}-seed0{WEIGHTS}"
        if path.exists() and path.stat().st_size <= WEIGHTS_BYTES:
            return f"{winner.label}-seed0"
    raise InputError(f"{study} has no model of at most {WEIGHTS_BYTES:,} bytes: retrain a smaller one")


def _rank(result: Result) -> list[Winner]:
    """Return all that has a model, the best on validation first."""
    winners = [each for each in read_entry(result.choices).winners if (each.architecture, each.rank) in result.groups]
    return sorted(winners, key=lambda winner: -result.config.search.sign * winner.value)


def _copy(study: Path, target: Path, patterns: Sequence[str]) -> None:
    for path in (path for pattern in patterns for path in study.glob(pattern)):
        copy = target / path.relative_to(study)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def name_no_machine(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the last part of each path of the machine that searched; the evaluations stay."""
    config = manifest["config"]
    data, command = dict(config["data"]), str(manifest["command"])
    for path in (data["path"], data.pop("cache", ""), config["results"]):
        command = command.replace(path, Path(path).name) if Path(path).is_absolute() else command
    data["path"] = Path(data["path"]).name
    return {**manifest, "command": command, "config": {**config, "data": data, "results": "results"}}


def format_recipe(result: Result, winner: Winner) -> str:
    """Return a winner as a recipe, with its figures above it."""
    trial, size = result.trials[winner.trial], result.config.data.size
    defaults = list_defaults(winner.architecture)
    params = complete_params(winner.architecture, trial.params, size)
    [model, *_] = result.groups[winner.architecture, winner.rank]
    [quote] = [each for each in list_quotes(result) if each.startswith(f"{winner.architecture}: ")]
    metric, count = result.config.search.metric, len(result.trials)
    lines = [
        f"The best {winner.architecture} that the study {result.study} found: trial {winner.trial} of {count}, "
        f"{metric} {winner.value:.4f} on validation.",
        f"{model.parameters:,} parameters, retrained for {winner.epochs} of "
        f"{result.config.search.count_epochs(winner.architecture)} epochs.",
        f"Result: {quote}.",
        f"The study and its models: reference/{result.study}.",
    ]
    changed = {name: value for name, value in params.items() if value != defaults[name]}
    return "\n".join([*(f"# {line}" for line in lines), ""]) + format_yaml(
        {"architecture": winner.architecture, "params": changed}
    )


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
    lines = [
        f"# Reference study {name}",
        *("", SUMMARY, *(line for quote in list_quotes(result) for line in (f"{quote}.", ""))),
        *(*tabulate(pd.read_csv(folder / "report/comparison.csv")), SUMMARY, ""),
        "± is the standard deviation over seeds, the interval a 95 % bootstrap over the test images. Notes, further",
        "tables and costs: [report/comparison.md](report/comparison.md).",
        *("", "![Accuracies](report/figures/accuracy.png)", "", "## How it was made", ""),
        *("```bash", str(name_no_machine(result.manifest)["command"]), "```", ""),
        *(f"- {fact}" for fact in list_facts(result, journal, folder)),
        *("", "## What the scheduler saved", ""),
        *(f"- {_describe_saving(search)}" for search in searches),
        *("", "## What mattered most", ""),
        *(f"- {_describe_importance(search)}" for search in searches),
        *("", "## What failed", ""),
        *(f"- {failure}" for failure in list_failures(result, journal)),
        *("", "## Use it", "", "```bash"),
        f"python -m search inspect reference/{name}",
        f"python -m search dashboard reference/{name}",
        f"python -m search reproduce reference/{name} --model {architecture}-seed0 --data PATH",
        f"python -m search predict reference/{name}/models/{bundled}{WEIGHTS} photo.jpg",
        *("```", ""),
        "`study.journal` is a journal of Optuna; `trials.parquet` is a table with a row for each trial. `models/` has",
        f"the record of every model, and the weights of {bundled}: the best on validation of those of at most",
        f"{WEIGHTS_BYTES / 1e6:g} MB, with seed 0. `reproduce` compares others with the checksums in their records.",
        "Paths in `study.yaml` were shortened. `python -m docs.publish` wrote this folder.",
    ]
    return "\n".join(lines) + "\n"


def list_facts(result: Result, journal: Journal, folder: Path) -> list[str]:
    """Return machine, time and code of a study."""
    records = [json.loads((folder / "models" / f"{each.label}{RECORD}").read_text()) for each in result.models]
    hardware = [record["hardware"] for record in records]
    machines = {f"{each['name']} ({each['type']}), threads of a training: {each['threads']}" for each in hardware}
    seconds = sum(each.cost["training_seconds"] for each in result.models)
    searched = sum(search.device_seconds for search in summarize_search(result.config, result.trials))
    first, last = min(filter(None, (trial.started for trial in result.trials))), result.choices["opened"]["time"]
    commits = {describe_commit(code) for code in (result.manifest["code"], *(record["code"] for record in records))}
    return [
        f"Machine: {'; '.join(sorted(machines))}.",
        f"Search: {len(result.trials)} trials in {format_duration(journal.elapsed_s)}, {format_duration(searched)} of "
        f"{name_device(result.config)} time; continued {count_resumptions(folder / 'study.journal')} times.",
        f"Evaluation: {len(result.models)} models, {format_duration(seconds)} of training.",
        f"From {first:%Y-%m-%d %H:%M} to the opening of the test split at {last}.",
        f"Code: commit {', '.join(sorted(commits))}.",
    ]


def count_resumptions(journal: Path) -> int:
    """Return how often a search was continued: processes that recorded an epoch, without the first."""
    lines = map(json.loads, journal.read_text().splitlines())
    return len({line["worker_id"] for line in lines if "intermediate_value" in line}) - 1


def list_failures(result: Result, journal: Journal) -> list[str]:
    """Return what failed, and what was changed on the way."""
    failed = [
        f"Trial {trial.number} ({trial.architecture}): {trial.reason}."
        for trial in result.trials
        if trial.state is State.FAIL
    ]
    models = {model.label for model in result.models}
    retrainings = list_retrainings(result.config, result.trials, read_entry(result.choices))
    failed += [f"The retraining {each.label} left no model." for each in retrainings if each.label not in models]
    return [*(failed or ["No trial and no retraining failed."]), *describe_changes(journal.list_changes())]


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


def main(study: Path, console: Console) -> None:
    """Publish a study, and print what README.md must repeat."""
    target = publish(study, ROOT, console)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    lines = [f"Wrote {target} ({size / 1e6:.1f} MB) and a recipe. README.md must have these lines:", ""]
    console.print("\n".join(["", *lines, *read_summary(target)]), soft_wrap=True, markup=False)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Console())
    except InputError as error:
        raise SystemExit(f"error: {error}") from None

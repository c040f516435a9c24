"""Logs an evaluation as one W&B run: tables, curves, the report, and the best models with their lineage."""

import csv
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from search.evaluation.result import Result, TestedModel
from trainables.names import shorten


def log_evaluation(run: Any, result: Result) -> None:
    """Log everything of an evaluation, in one step; its report is written."""
    directory = result.config.directory
    told = {key: dict(result.manifest)[key] for key in ("config", "data", "code")}
    run.config.update({"study": result.study, "choices": result.manifest["evaluations"][-1], **told})
    row: dict[str, Any] = {"models": _tabulate(result), "curves": _draw_curves(result)}
    for best in list_best(result):
        row[f"confusion/{best.architecture}"] = _draw_confusion(result, best.architecture)
        if best.label in result.predictions:
            row[f"roc/{best.architecture}"] = _draw_roc(result, best)
        for name, value in best.metrics.items():
            row[f"{best.architecture}/{name}"] = value
    for name in ("comparison", "robustness", "sources"):
        if (table := directory / "report" / f"{name}.csv").exists():
            row[name] = _read_table(table)
    if (page := directory / "report" / "report.html").exists():
        row["report"] = wandb.Html(str(page), inject=False)
    run.log(row)
    for best in list_best(result):
        run.log_artifact(_pack(result, best, directory / "models"), aliases=[f"best-{shorten(best.architecture)}"])


def list_best(result: Result) -> list[TestedModel]:
    """Return each architecture's model for the registry: the first seed of its best configuration.

    The best seed would be chosen on the test split.
    """
    return [models[0] for models in result.winners.values()]


def _tabulate(result: Result) -> Any:
    """Return a row for each retrained model with all its metrics."""
    rows = []
    for tested in result.models:
        plain = dataclasses.asdict(tested)
        rows.append({**plain, **plain.pop("metrics"), **plain.pop("cost")})
    hidden = {"metrics", "cost", "confusion"}
    columns: list[str | int] = [name for name in dict.fromkeys(itertools.chain(*rows)) if name not in hidden]
    return wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])


def _read_table(path: Path) -> Any:
    """Return a table of the report."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    columns: list[str | int] = [*header]
    return wandb.Table(columns=columns, data=[[_read_cell(cell) for cell in row] for row in rows])


def _read_cell(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _draw_confusion(result: Result, architecture: str) -> Any:
    """Return the confusion matrix of an architecture's best configuration, counts summed over its seeds."""
    mine = result.winners[architecture]
    counts = np.sum([tested.confusion for tested in mine], axis=0)
    data: list[Any] = [
        [result.classes[truth], result.classes[called], int(counts[truth, called])]
        for truth, called in np.ndindex(2, 2)
    ]
    names: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=names, data=data),
        {str(name): str(name) for name in names},
        {"title": f"{architecture} on the test split, {len(mine)} seeds"},
    )


def _draw_roc(result: Result, tested: TestedModel) -> Any:
    real = result.predictions[tested.label]
    truth: Any = result.labels
    probabilities: Any = np.stack([1 - real, real], axis=1)
    shown: Any = [1]
    return wandb.plot.roc_curve(truth, probabilities, labels=list(result.classes), classes_to_plot=shown)


def _draw_curves(result: Result) -> Any:
    """Return the validation metric by epoch of the trials that won."""
    curves = {best.architecture: result.trials[best.trial].list_values() for best in list_best(result)}
    return wandb.plot.line_series(
        xs=[list(range(1, len(values) + 1)) for values in curves.values()],
        ys=list(curves.values()),
        keys=list(curves),
        title=f"Validation {result.config.search.metric} of the winners",
        xname="epoch",
    )


def _pack(result: Result, tested: TestedModel, folder: Path) -> Any:
    """Return a model artifact with its origin; its files are uploaded from where they are."""
    manifest = result.manifest
    metadata = {
        "study": result.study,
        "study_id": manifest.get("id"),
        "data_fingerprint": manifest["data"]["fingerprint"],
        "commit": manifest["code"].get("commit"),
        "params": result.trials[tested.trial].params,
        **dataclasses.asdict(tested),
    }
    artifact = wandb.Artifact(f"{result.study}-{shorten(tested.architecture)}", "model", metadata=metadata)
    for path in sorted(folder.glob(f"{tested.label}.*")):  # not the predictions, which contain images of the data set
        if not path.name.endswith((".partial", ".predictions.safetensors")):
            artifact.add_file(str(path), policy="immutable")
    return artifact

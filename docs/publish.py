"""Publishes an evaluated study in reference/, small enough for the repository, and its winner as a recipe.

    python -m docs.publish results/NAME
    python -m docs.publish results/NAME --open   # an interrupted study: what continues it, in reference/open

`inspect`, `dashboard`, `reproduce` and plain Optuna open the published folder like the study's own. It has the records
of all models but the weights of one: the best on validation of those that are small enough, with seed 0. Images of the
data set are not published. What `reference/NAME/README.md` says is computed, so no figure is typed by hand.
"""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from docs.published import STORED_BYTES, WEIGHTS_BYTES, describe, describe_open, name_no_machine, read_summary
from search.commands.terminal import build_console, explain_errors
from search.config.schema import StudyConfig
from search.config.yaml import format_yaml
from search.evaluation.choices import list_retrainings, read_entry
from search.evaluation.evaluate import load_result
from search.evaluation.further import FOLDER, list_due, list_tests
from search.evaluation.model_file import CARD, RECORD, WEIGHTS, load_predictions, load_record, load_weights, save_model
from search.evaluation.openings import complete_entries
from search.evaluation.result import Result
from search.evaluation.retrainings import load_tested
from search.record.choices import Winner
from search.record.folder import OpenStudy, open_study
from search.record.manifest import save_manifest
from search.record.reading import load_classifiers
from search.record.trial import State
from search.report.overview import list_quotes
from search.report.publish import publish_report
from search.report.trials import write_trials
from trainables.config import complete_params, list_defaults
from trainables.errors import InputError
from trainables.names import shorten

ROOT = Path(__file__).parents[1]
COPIED = ("study.journal", "artifacts/*", "report/*.csv", "report/*.tex", "report/*.md", "report/figures/*.png")
"""Files of a study that are published as they are."""


def publish(study: Path, root: Path, console: Console, *, accept_missing: bool = False) -> Path:
    """Write reference/NAME and configs/recipes/NAME_ARCH.yaml below a folder.

    An earlier publication is replaced when the new one is complete.
    Unless something is missing, reference/open/NAME is deleted.

    Args:
        study: Folder of an evaluated study; its report is written again.
        root: The repository.
        console: Shows what `evaluate --report` shows.
        accept_missing: Whether retrainings and further tests may be missing.

    Returns:
        The published folder.

    Raises:
        InputError: If the journal is in a database, a trial is running, there is no result, a part of it is missing, or
            no model's weights are small enough.
    """
    config = _load_config(study)
    with open_study(config, console.print) as opened:
        if running := [trial.number for trial in opened.journal.load() if trial.state is State.RUNNING]:
            raise InputError(f"{study}: trial {running[0]} has not ended: resume the search first")
        result = load_result(opened)
        if (missing := list_missing(opened)) and not accept_missing:
            raise InputError(f"{study}: {missing[0]} is missing: evaluate again, or pass --accept-missing")
        for each in missing:
            console.print(f"Not published, since it is missing or damaged: {each}.")
        result = publish_report(result, opened.journal, console)
        bundled = choose_bundled(study, result)
        target = root / "reference" / config.name
        folder = _empty(root, config.name)
        _copy(study, folder, [*COPIED, *(f"models/{model.label}{RECORD}" for model in result.models)])
        _copy(study, folder, [f"models/{bundled}{suffix}" for suffix in (WEIGHTS, CARD)])
        write_trials(result.trials, folder / "trials.parquet")
        save_manifest(folder, name_no_machine(result.manifest))
        (folder / "README.md").write_text(describe(result, opened.journal, folder, bundled))
        if not (winners := [each for each in _rank(result) if each.rank == 1]):
            raise InputError(f"{study}: no winner has a model, so there is no recipe to write: evaluate again")
    winner = winners[0]
    recipe = root / "configs" / "recipes" / f"{config.name}_{shorten(winner.architecture)}.yaml"
    recipe.write_text(format_recipe(result, winner))
    published = _replace(target, folder)
    if not missing:
        shutil.rmtree(root / "reference" / "open" / config.name, ignore_errors=True)
    return published


def list_missing(study: OpenStudy) -> list[str]:
    """Return the retrainings of the last evaluation that have no model, and the models that lack further tests."""
    evaluations, folder = study.manifest["evaluations"], study.config.directory / "models"
    if not evaluations or not evaluations[-1]["opened"]:
        return ["the test of the last evaluation"]
    choices = read_entry(evaluations[-1])
    retrainings = list_retrainings(study.config, study.journal.load(), choices)
    tested = [each.label for each in retrainings if load_tested(folder, each)]
    return [
        *(f"the retraining {each.label}" for each in retrainings if each.label not in tested),
        *(f"a further test of {label}" for label in list_due(folder, tested, list_tests(choices))),
    ]


def store_open(study: Path, root: Path, console: Console) -> Path:
    """Write what continues a study on another machine to reference/open/NAME.

    That is study.yaml, the journal, and the models and checkpoints of the evaluation that are small enough.

    Args:
        study: Folder of a study whose search or evaluation is interrupted.
        root: The repository.
        console: Shows notes, such as that the journal was repaired.

    Returns:
        The written folder.

    Raises:
        InputError: If the journal is in a database, the study is running, or its evaluation is complete.
    """
    config = _load_config(study)
    with open_study(config, console.print) as opened:
        complete_entries(opened.manifest["evaluations"], opened.journal.list_openings())
        if not (missing := list_missing(opened)):
            raise InputError(f"{study} is evaluated: publish it without --open")
        folder = _empty(root, config.name)
        _copy(study, folder, ["study.journal"])
        _store_models(study, folder)
        save_manifest(folder, name_no_machine(opened.manifest))
        (folder / "README.md").write_text(describe_open(config, opened.manifest, opened.journal, missing))
    return _replace(root / "reference" / "open" / config.name, folder)


def _store_models(study: Path, target: Path) -> None:
    """Store the models without pictures of their mistakes, with their further logits, and checkpoints.

    Files of weights and checkpoints that are too large are left out.
    """
    source, folder = study / "models", target / "models"
    for label in [path.stem for path in source.glob(f"*{RECORD}")]:
        with contextlib.suppress(InputError):  # what is damaged is trained again
            record = load_record(source / (label + RECORD))
            found = load_predictions(source, record)
            if (source / (label + WEIGHTS)).exists() or len(found["mistakes"]):
                found |= {name: found[name][:0] for name in ("mistakes", "mistake_images")}
                save_model(folder, record, load_weights(source / (label + WEIGHTS), record), found)
            else:  # was stored without both before
                _copy(study, target, [f"models/{label}.*"])
            _copy(study, target, [f"models/{FOLDER}/{label}.*"])
    _copy(study, target, ["models/*.ckpt"])
    for path in folder.glob("*.*"):
        if path.stat().st_size > STORED_BYTES:
            path.unlink()


def _load_config(study: Path) -> StudyConfig:
    config = load_classifiers(study)
    if config.storage:
        raise InputError(
            f"{study} has its journal in a database: only a study with the file study.journal is published"
        )
    return config


def _empty(root: Path, name: str) -> Path:
    """Return a folder that git ignores, without what an earlier run left in it."""
    folder = root / "build" / "reference" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _replace(target: Path, folder: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(target)


def choose_bundled(study: Path, result: Result) -> str:
    """Return the label of the model whose weights are published; the test has no say in it."""
    labels = {model.label for model in result.models}
    for label in (f"{winner.label}-seed0" for winner in _rank(result)):
        weights = study / "models" / f"{label}{WEIGHTS}"
        if label in labels and weights.exists() and weights.stat().st_size <= WEIGHTS_BYTES:
            return label
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


def main(
    study: Annotated[Path, typer.Argument(metavar="results/NAME", help="Folder of a study.")],
    is_open: Annotated[
        bool, typer.Option("--open", help="Store what continues an interrupted study on another machine.")
    ] = False,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Publish although retrainings or further tests are missing.")
    ] = False,
) -> None:
    """Publish an evaluated study, and print the lines that README.md must repeat."""
    with explain_errors():
        console = build_console()
        if is_open:
            console.print(f"Wrote {store_open(study, ROOT, console)}; its README says how to continue the study.")
            return
        target = publish(study, ROOT, console, accept_missing=accept_missing)
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        said = [
            f"Wrote {target} ({size / 1e6:.1f} MB) and a recipe.",
            "List the recipe in docs/design.md, and correct the times and results in the header of the study's file.",
            "README.md must have these lines:",
        ]
        console.print("\n".join(["", *said, "", *read_summary(target)]))


if __name__ == "__main__":
    typer.run(main)

"""The command line: read the study, run it, evaluate the winners, write the report.

python -m search.run [CONFIG] [--set PATH=VALUE ...] [--name NAME] [--resume] [--accept-changes]
    [--dry-run]
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from search.checkpoints import Checkpoints
from search.cluster import connect, count_slots
from search.config import StudyConfig, load, parse
from search.document import set_value
from search.evaluate import evaluate
from search.journal import Journal, Trial
from search.live import build_live
from search.lock import hold
from search.plan import describe_plan
from search.prepare import (
    check_absent,
    compare_record,
    load_record,
    make_directory,
    prepare_data,
    prepare_weights,
    write_record,
)
from search.report import render, write_report
from search.result import Result, TestedModel
from search.study import Study, check_shares
from search.table import write_trials
from search.task import Task
from search.tracking import build_tracker
from search.trial import DISK_FULL, run_trial
from search.tuner import Interrupted, run_study
from trainables.data import load_info
from trainables.errors import InputError
from trainables.runtime import derive_seed

DEFAULT_CONFIG = Path("configs/local.yaml")


def main(
    config: Annotated[Path | None, typer.Argument(help=f"Study file; {DEFAULT_CONFIG} by default.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a key.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study and of its folder in results/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study of this name.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although settings, data or code differ; recorded.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done; train nothing.")] = False,
) -> None:
    """Search both architectures, retrain the winners, test them, and write the comparison."""
    try:
        overrides = [*(settings or []), *([f"name={json.dumps(name)}"] if name is not None else [])]
        stored = resume and config is None
        study = _read_stored(overrides) if stored else load(config or DEFAULT_CONFIG, overrides)
        console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
        if dry_run:
            describe_plan(study, console)
        else:
            _run(study, console, resume=resume, accept_changes=accept_changes)
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        typer.echo(f"error: no space left ({error}); free some, then the same command with --resume goes on", err=True)
        raise typer.Exit(1) from None
    except (Interrupted, KeyboardInterrupt):
        typer.echo("interrupted; the same command with --resume goes on from here", err=True)
        raise typer.Exit(130) from None


def _read_stored(overrides: list[str]) -> StudyConfig:
    """Return the study that lies under the name, as it was started last."""
    default = load(DEFAULT_CONFIG) if DEFAULT_CONFIG.exists() else None
    wanted: dict[str, Any] = {"results": "results", "name": default.name if default else "local"}
    for override in overrides:
        set_value(wanted, override)
    if not isinstance(wanted["results"], str) or not isinstance(wanted["name"], str):
        raise InputError("name and results must be text")
    directory = Path(wanted["results"]) / wanted["name"]
    if not (directory / "study.yaml").exists():
        raise InputError(f"there is no study in {directory} to resume: name its CONFIG to start it")
    before: dict[str, Any] = load_record(directory)["config"]
    for override in overrides:
        set_value(before, override)
    return parse(before)


def _run(config: StudyConfig, console: Console, *, resume: bool, accept_changes: bool) -> None:
    check_absent(config, resume=resume)
    check_shares(config)
    packed = prepare_data(config, console)
    prepare_weights(config)
    with contextlib.ExitStack() as stack:
        resources = stack.enter_context(connect(config))
        make_directory(config, packed)
        stack.enter_context(hold(config.directory / "study.lock"))
        record, changes = compare_record(config, packed, accept_changes=accept_changes)
        journal = Journal(config.directory / "study.journal", config.name, note=console.print)
        if changes:
            journal.add_change(changes)
        write_record(config.directory, record)
        study, halted = _search(config, journal, packed, resources, console, identity=record["id"])
        write_trials(study.trials, config.directory / "trials.csv")
        console.print("Retraining the winners on train and validation, testing each once:")
        models, failures = evaluate(config, study.trials, packed, lambda tested: _show_tested(tested, console))
    notes = [
        *_list_notes(config, study, packed),
        *([f"The search ended early: {halted}."] if halted else []),
        *failures,
    ]
    result = Result(
        study=config.name,
        config=config,
        record=record,
        models=models,
        trials=study.trials,
        labels=np.empty(0, np.uint8),
        predictions={},
        mistakes={},
        notes=notes,
    )
    write_report(result, config.directory / "report")
    tracker = build_tracker(config, record["id"], console.print)
    tracker.on_evaluation(result)
    tracker.close()
    console.print(render(result))
    console.print(f"Report: {config.directory / 'report'}")


def _search(
    config: StudyConfig, journal: Journal, packed: Path, resources: dict[str, float], console: Console, *, identity: str
) -> tuple[Study, str | None]:
    """Run the trials; return the study and why it halted early, if it did."""
    search, directory = config.search, config.directory
    with contextlib.ExitStack() as stack:
        live = build_live(
            total_trials=search.num_trials,
            max_epochs=search.max_epochs,
            max_hours=search.max_hours,
            console=console,
            trials=journal.load(),
            elapsed_s=journal.elapsed_s,
        )
        stack.callback(live.close)
        tracker = build_tracker(config, identity, live.note)
        stack.callback(tracker.close)
        checkpoints = Checkpoints(directory / "checkpoints")
        stack.callback(checkpoints.close)
        study = Study(config, journal, [checkpoints, tracker, live])
        checkpoints.sweep(study.trials)
        halted = run_study(
            study,
            run_trial,
            lambda trial: _build_task(config, trial, packed, checkpoints.get_path(trial.number)),
            slots=count_slots(config, resources),
        )
    return study, halted


def _build_task(config: StudyConfig, trial: Trial, packed: Path, checkpoint: Path) -> Task:
    return Task(
        number=trial.number,
        architecture=trial.architecture,
        params=trial.params,
        seed=derive_seed(config.search.seed, f"trial {trial.number}"),
        max_epochs=config.search.max_epochs,
        epochs_done=len(trial.epochs),
        pack=str(packed.resolve()),
        val_fraction=config.data.val_fraction,
        max_train_images=config.data.max_train_images,
        split_seed=config.search.seed,
        checkpoint=str(checkpoint),
        cpus=config.get_resources(trial.architecture).cpus,
        gpus=config.get_resources(trial.architecture).gpus,
    )


def _show_tested(tested: TestedModel, console: Console) -> None:
    name = tested.architecture + ("" if tested.rank == 1 else f" (rank {tested.rank})")
    console.print(f"  {name} seed {tested.seed}: test accuracy {tested.metrics['accuracy']:.4f}")


def _list_notes(config: StudyConfig, study: Study, packed: Path) -> list[str]:
    info = load_info(packed)
    notes = [
        f"Chosen on validation among {len(study.trials)} trials ({study.num_epochs} epochs), retrained on train and "
        f"validation with {config.evaluation.seeds} seeds, tested once; REAL is the positive class.",
        "Published figures are the best epoch on the test split (Bird & Lotfi: as published), ours never saw it.",
    ]
    if info.leaked or info.duplicates:
        notes.append(f"Left out of train: {info.leaked} images that are also in test, {info.duplicates} second copies.")
    if info.skipped:
        notes.append(f"Skipped {len(info.skipped)} files that are no images, the first {info.skipped[0]}.")
    if config.data.path == "sample":
        notes.append("The embedded sample is not CIFAKE: these figures show that the system works, nothing else.")
    return notes


if __name__ == "__main__":
    typer.run(main)

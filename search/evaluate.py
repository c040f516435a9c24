"""The last step of a search, also a command: retrains the winners, tests each once, writes the report.

python -m search.evaluate results/NAME [--set evaluation.seeds=5 ...] [--architecture NAME ...] [--report]
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from search.cluster.copy import Copy
from search.cluster.nodes import connect
from search.cluster.preflight import check_nodes
from search.command import build_console, explain_errors
from search.config import Architecture, StudyConfig, dump
from search.evaluation.result import Result, TestedModel
from search.evaluation.retrainer import Retrainer
from search.evaluation.retraining import Place, load_tested, load_tests
from search.evaluation.winners import (
    Choices,
    build_calibration,
    build_entry,
    check_winners,
    choose,
    list_retrainings,
    read_entry,
    recall,
    stamp,
)
from search.journal import Journal, Trial
from search.lock import hold
from search.prepare import load_record, load_study, prepare_data, prepare_weights, write_record
from search.report.notes import describe_changes, list_notes
from search.report.tables import write_report
from search.report.terminal import render
from search.task import Failure
from search.tracking.tracker import build_tracker
from search.view.artifacts import publish
from trainables.errors import InputError
from trainables.record import load_info

MAY_SET = ("evaluation.", "resources.", "cluster.", "tracking.", "data.path=", "data.cache=")
"""How and where winners are retrained; all else is the study's."""


def main(
    study: Annotated[
        str, typer.Argument(metavar="results/NAME", help="Folder of a study, or its s3://BUCKET/PREFIX/NAME.")
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a key of evaluation or resources.")
    ] = None,
    architectures: Annotated[
        list[str] | None, typer.Option("--architecture", help="Evaluate this one only; may be repeated.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write the report again from what is stored; train nothing.")
    ] = False,
) -> None:
    """Retrain a study's winners, test each once on the sealed split, and write the report."""
    with explain_errors("the same command"), contextlib.ExitStack() as stack:
        console = build_console()
        if report and (architectures or any(each.startswith("evaluation.") for each in settings or ())):
            raise InputError("--report writes what is stored: leave out --architecture and --set evaluation.*")
        config = _read_config(study, settings or [])
        copy = Copy(config, console.print)
        lock = stack.enter_context(hold(copy.lock, console.print))
        copy.restore()
        record = load_record(config.directory)
        _check_journal(config)
        journal = Journal(config.journal, config.name, note=console.print, check=copy.choose_check(lock.check))
        stack.callback(journal.close)
        stack.callback(copy.close)
        copy.start(lock.check)
        trials = journal.load()
        if report:
            models = _collect(config, record, trials)
            _report(config, record, journal, console, models, _describe_missing(config, record, trials, models))
            return
        chosen = _select(config, architectures)
        _check_finished(chosen, trials)
        packed = prepare_data(config, console)
        _check_data(config, record, packed)
        if is_trained(chosen, record, trials):
            console.print("Evaluated before with these choices; nothing to train.")
        else:
            prepare_weights(chosen)
            check_nodes(chosen, stack.enter_context(connect(chosen)), console)
        record["config"]["evaluation"] = dump(config)["evaluation"]
        conclude(chosen, record, journal, packed, console, copy)


def is_trained(config: StudyConfig, record: dict[str, Any], trials: Sequence[Trial]) -> bool:
    """Answer whether every retraining of the evaluation is there already, so that no worker is needed."""
    choices = recall(record["evaluations"], choose(config, trials, record["data"]["fingerprint"]))
    retrainings = list_retrainings(config, trials, choices)
    return not choices.is_open() and all(load_tested(_get_folder(config), each) for each in retrainings)


def conclude(
    config: StudyConfig,
    record: dict[str, Any],
    journal: Journal,
    packed: Path,
    console: Console,
    copy: Copy,
    notes: Sequence[str] = (),
) -> None:
    """Retrain the winners, test each once and write the report; what an earlier evaluation finished is kept.

    Args:
        config: The study; its lock is held, and Ray connected unless everything is trained.
        record: Its study.yaml, written anew before the test split is opened.
        journal: Its record, with all of its trials.
        packed: Folder of the packed images.
        console: Where progress and the table are shown.
        copy: The study's folder here, and its store.
        notes: Sentences for the report.

    Raises:
        InputError: If there is nothing to retrain, or every retraining failed.
        OSError: If the disk is full; what is finished is kept.
    """
    trials = journal.load()
    failures = check_winners(config, trials)
    folder = _get_folder(config)
    folder.mkdir(exist_ok=True)
    retrainer = Retrainer(config=config, pack=packed, place=_get_place(config), console=console)
    choices = recall(record["evaluations"], choose(config, trials, load_info(packed).fingerprint))
    choices = _calibrate(retrainer, trials, choices)
    _open(config, record, choices, copy)
    retrainings = list_retrainings(config, trials, choices)
    found: dict[str, TestedModel | Failure | None] = {each.label: load_tested(folder, each) for each in retrainings}
    for label, model in found.items():
        if model is not None:  # a kill between the last two steps of its retraining leaves its checkpoint
            retrainer.place.build_shelf(label).delete()
    if pending := [each for each in retrainings if found[each.label] is None]:
        console.print("Retraining the winners on train and validation, testing each once:")
        found |= retrainer.retrain(pending)
        copy.fetch_below("models/")
    models = [model for model in found.values() if isinstance(model, TestedModel)]
    failures += [
        f"The retraining {label} failed: {failure.reason}."
        for label, failure in found.items()
        if isinstance(failure, Failure)
    ]
    if not models:
        raise InputError(f"there is nothing to report. {' '.join(failures)}")
    result = _report(config, record, journal, console, models, [*notes, *failures])
    tracker = build_tracker(config, record["id"], console.print)
    tracker.on_evaluation(result)
    tracker.close()


def _calibrate(retrainer: Retrainer, trials: Sequence[Trial], choices: Choices) -> Choices:
    """Return the choices with every threshold chosen."""
    if not choices.is_open():
        return choices
    retrainer.console.print("Choosing the thresholds on validation, each by a training on train alone:")
    config = retrainer.config
    runs = {winner: build_calibration(config, trials, winner, choices.fingerprint) for winner in choices.winners}
    found = retrainer.calibrate(list(runs.values()))
    winners = []
    for winner, run in runs.items():
        match found.get(run.label):
            case float() as threshold:
                winners.append(dataclasses.replace(winner, threshold=threshold))
            case failure:
                reason = failure.reason if isinstance(failure, Failure) else "no word from its worker"
                raise InputError(f"no threshold for {winner.label}: {reason}; evaluation.threshold=0.5 needs none")
    return dataclasses.replace(choices, winners=tuple(winners))


def _open(config: StudyConfig, record: dict[str, Any], choices: Choices, copy: Copy) -> None:
    """Write down what was chosen, and then that the test split is about to be opened, unless both stand there."""
    evaluations = record["evaluations"]
    if not evaluations or read_entry(evaluations[-1]) != choices:
        evaluations.append(build_entry(choices))
    write_record(config.directory, record)
    copy.put("study.yaml")
    for winner in choices.winners:
        _get_place(config).build_shelf(f"{winner.label}-threshold").delete()
    if not evaluations[-1]["opened"]:
        evaluations[-1]["opened"] = stamp()
        write_record(config.directory, record)
        copy.put("study.yaml")


def _report(
    config: StudyConfig,
    record: dict[str, Any],
    journal: Journal,
    console: Console,
    models: list[TestedModel],
    notes: Sequence[str],
) -> Result:
    """Write the report, show its table, and put its confusion matrices where optuna-dashboard finds them."""
    trials = journal.load()
    tests = {model.label: load_tests(_get_folder(config), model.label) for model in models}
    labels, _, _ = tests[models[0].label]
    result = Result(
        study=config.name,
        config=config,
        record=record,
        models=models,
        trials=trials,
        labels=labels,
        predictions={label: probabilities for label, (_, probabilities, _) in tests.items()},
        mistakes={label: mistakes for label, (_, _, mistakes) in tests.items()},
        notes=[
            *list_notes(config, record, trials, models),
            *describe_changes(journal.list_changes()),
            *notes,
        ],
    )
    files = write_report(result, config.directory / "report")
    console.print(render(result))
    console.print(f"Report: {config.place}/report")
    confusions = [path for path in files if path.name.endswith("_confusion.png")]
    publish(confusions, config.directory / "artifacts", journal)
    return result


def _collect(config: StudyConfig, record: dict[str, Any], trials: Sequence[Trial]) -> list[TestedModel]:
    """Return the models of the evaluation in force.

    Raises:
        InputError: If there was none.
    """
    models: list[TestedModel] = []
    if record["evaluations"]:
        retrainings = list_retrainings(config, trials, read_entry(record["evaluations"][-1]))
        models = [model for each in retrainings if (model := load_tested(_get_folder(config), each)) is not None]
    if not models:
        raise InputError(f"{config.place} was not evaluated yet: the same command without --report does it")
    return models


def _describe_missing(
    config: StudyConfig, record: dict[str, Any], trials: Sequence[Trial], models: Sequence[TestedModel]
) -> list[str]:
    """Say which retrainings of the evaluation in force left no model."""
    there = {model.label for model in models}
    retrainings = list_retrainings(config, trials, read_entry(record["evaluations"][-1]))
    return [f"The retraining {each.label} left no model." for each in retrainings if each.label not in there]


def _read_config(study: str, settings: Sequence[str]) -> StudyConfig:
    """Read a study's configuration with overrides."""
    for setting in settings:
        if not setting.startswith(MAY_SET):
            known = ", ".join(f"{name}*" if name.endswith(".") else name.rstrip("=") for name in MAY_SET)
            raise InputError(f"--set {setting}: an evaluation may change {known} only; all else is the study's")
    return load_study(study, settings)[0]


def _check_journal(config: StudyConfig) -> None:
    if isinstance(config.journal, Path) and not config.journal.exists():
        raise InputError(f"{config.place} has no study.journal: nothing was searched there")


def _select(config: StudyConfig, architectures: Sequence[str] | None) -> StudyConfig:
    """Return the study with the architectures to evaluate alone."""
    known: dict[str, Architecture] = {str(name): name for name in config.search.architectures}
    if unknown := [name for name in architectures or () if name not in known]:
        raise InputError(f"--architecture {unknown[0]}: the study has {', '.join(known)}")
    wanted = tuple(name for text, name in known.items() if not architectures or text in architectures)
    return dataclasses.replace(config, search=dataclasses.replace(config.search, architectures=wanted))


def _check_finished(config: StudyConfig, trials: Sequence[Trial]) -> None:
    if missing := check_winners(config, trials):
        cure = "go on with the search, or name the others with --architecture"
        raise InputError(f"{' '.join(missing).rstrip('.')}: {cure}")


def _check_data(config: StudyConfig, record: dict[str, Any], packed: Path) -> None:
    if load_info(packed).fingerprint != record["data"].get("fingerprint"):
        cure = "--set data.path=PATH names the right ones"
        raise InputError(f"{config.data.path} holds other images than {config.place} was searched on: {cure}")


def _get_folder(config: StudyConfig) -> Path:
    return config.directory / "models"


def _get_place(config: StudyConfig) -> Place:
    return Place(f"{config.working_folder}/models", config.url)


if __name__ == "__main__":
    typer.run(main)

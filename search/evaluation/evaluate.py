"""The evaluation of a study: choose the winners, retrain them, test each once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from search.cluster.job import Failure
from search.config.printable import escape
from search.config.schema import StudyConfig
from search.datasets.sources import PackedSource, prepare_sources
from search.evaluation.choices import (
    build_calibration,
    build_entry,
    check_winners,
    choose,
    list_retrainings,
    read_entry,
    reuse_calibration,
)
from search.evaluation.front import find_front, list_points
from search.evaluation.further import list_due, list_tests, load_further
from search.evaluation.model_record import Retraining
from search.evaluation.openings import build_opening, complete_entries, describe_openings
from search.evaluation.result import Calibration, Result, TestedModel
from search.evaluation.retrainer import Retrainer
from search.evaluation.retrainings import ModelFolder, load_tested, load_tests
from search.record.choices import Choices
from search.record.folder import OpenStudy
from search.record.trial import Trial
from trainables.durable import make_folder
from trainables.errors import InputError
from trainables.pack_info import load_info


def is_trained(
    config: StudyConfig, manifest: dict[str, Any], trials: Sequence[Trial], sources: Sequence[PackedSource]
) -> bool:
    """Return whether every retraining of the evaluation already has its model, so that no worker is needed."""
    choices = reuse_calibration(
        manifest["evaluations"], _choose(config, trials, manifest["data"]["fingerprint"], sources)
    )
    if any(map(choices.needs_calibration, choices.winners)):
        return False
    folder, retrainings = _get_folder(config), list_retrainings(config, trials, choices)
    if not all(load_tested(folder, each) for each in retrainings):
        return False
    return not list_due(folder, [each.label for each in retrainings], list_tests(choices))


def evaluate(study: OpenStudy, packed: Path, console: Console, notes: Sequence[str] = ()) -> Result:
    """Retrain the winners and test each once; keep the models of an earlier evaluation.

    Args:
        study: The study, open for writing; Ray must be connected unless everything is trained.
        packed: Folder of the packed images.
        console: Shows the progress.
        notes: Sentences for the report.

    Raises:
        InputError: If there is nothing to retrain, or every retraining failed.
        OSError: If a disk failed or is full; the finished models are kept.
    """
    config, trials = study.config, study.journal.load()
    failures = check_winners(config, trials)
    make_folder(_get_folder(config))
    sources = prepare_sources(config, packed, console)
    folder = _get_model_folder(config)
    retrainer = Retrainer(config=config, pack=packed, folder=folder, console=console, sources=sources)
    choices = reuse_calibration(
        study.manifest["evaluations"], _choose(config, trials, load_info(packed).fingerprint, sources)
    )
    choices = _calibrate(retrainer, trials, choices)
    _open(study, choices, console)
    retrainings = list_retrainings(config, trials, choices)
    found = _retrain(retrainer, retrainings, choices, study)
    models = [model for model in found.values() if isinstance(model, TestedModel)]
    failed = {label: failure.reason for label, failure in found.items() if isinstance(failure, Failure)}
    failures += [f"The retraining {label} failed: {reason}." for label, reason in failed.items()]
    if not models:
        raise InputError(f"there is nothing to report. {' '.join(failures)}")
    failures += _score_further(retrainer, retrainings, models, choices, study)
    return _gather(study, models, [*notes, *failures])


def _choose(config: StudyConfig, trials: Sequence[Trial], fingerprint: str, sources: Sequence[PackedSource]) -> Choices:
    """Return the choices; the costs of the trials are counted only if `evaluation.front` needs them."""
    wanted = config.evaluation
    front = find_front(list_points(config, trials), wanted.front_cost) if wanted.front else []
    numbers = [point.trial.number for point in front]
    return choose(config, trials, fingerprint, numbers, [each.source for each in sources])


def load_result(study: OpenStudy) -> Result:
    """Return the result of the last evaluation from the stored files.

    Raises:
        InputError: If there is none.
    """
    config, evaluations = study.config, study.manifest["evaluations"]
    folder = _get_folder(config)
    found: dict[str, TestedModel | None] = {}
    openings = study.journal.list_openings()
    complete_entries(evaluations, openings)
    if evaluations:
        retrainings = list_retrainings(config, study.journal.load(), read_entry(evaluations[-1]))
        found = {each.label: load_tested(folder, each) for each in retrainings}
    models = [model for model in found.values() if model is not None]
    if not models:
        known = describe_openings(evaluations, openings)
        what = " ".join(["there is no evaluation to report", *known]).rstrip(".")
        raise InputError(f"{config.location}: {what}: the same command without --report evaluates it")
    missing = [f"The retraining {label} has no stored model." for label, model in found.items() if model is None]
    due = list_due(folder, [model.label for model in models], list_tests(read_entry(evaluations[-1])))
    missing += [
        f"{label} was not scored on {', '.join(test.name for test in each.tests)}." for label, each in due.items()
    ]
    return _gather(study, models, missing)


def _calibrate(retrainer: Retrainer, trials: Sequence[Trial], choices: Choices) -> Choices:
    """Return the choices with all values that they need from validation."""
    runs = {
        winner.label: build_calibration(retrainer.config, trials, winner, choices)
        for winner in choices.winners
        if choices.needs_calibration(winner)
    }
    if not runs:
        return choices
    retrainer.console.print("Measuring thresholds, temperatures or curves on validation, by trainings on train alone:")
    found = retrainer.calibrate(list(runs.values()))
    winners, has_curve = [], choices.max_train_images is not None
    for winner in choices.winners:
        if winner.label not in runs:
            winners.append(winner)
            continue
        match found.get(runs[winner.label].label):
            case Calibration(threshold=threshold, temperature=temperature, curve=curve):
                winners.append(winner.complete(threshold, temperature, curve if has_curve else None))
            case Failure(reason=reason, is_breakdown=True):
                raise InputError(
                    f"validation of {winner.label}: {reason}; evaluate again to continue the training. Without it: "
                    "evaluation.threshold=0.5 and evaluation.calibrate=[]"
                )
            case Failure(reason=reason) if winner.threshold is not None:
                winners.append(winner.complete(None, 1.0, () if has_curve else None, escape(reason)[:500]))
            case failure:
                reason = failure.reason if isinstance(failure, Failure) else "its worker sent nothing"
                raise InputError(f"validation of {winner.label}: {reason}; evaluation.threshold=0.5 does without it")
    return dataclasses.replace(choices, winners=tuple(winners))


def _retrain(
    retrainer: Retrainer, retrainings: Sequence[Retraining], choices: Choices, study: OpenStudy
) -> dict[str, TestedModel | Failure]:
    """Return label -> tested model, or why there is none; train only the retrainings without a model."""
    stored = {each.label: load_tested(retrainer.folder.path, each) for each in retrainings}
    found: dict[str, TestedModel | Failure] = {label: model for label, model in stored.items() if model is not None}
    for label in found:  # a kill after the record was written may have left the checkpoint
        retrainer.folder.delete_checkpoint(label)
    if pending := [each for each in retrainings if each.label not in found]:
        _score_further(retrainer, retrainings, list(stored.values()), choices, study)  # of a scoring that was killed
        retrainer.console.print("Retraining the winners on train and validation, testing each once:")
        found |= retrainer.retrain(pending, list_tests(choices))
        study.fetch_models()
        # a worker that broke down in a further test leaves a tested model
        found |= {each.label: model for each in pending if (model := load_tested(retrainer.folder.path, each))}
    return {each.label: found[each.label] for each in retrainings}


def _score_further(
    retrainer: Retrainer,
    retrainings: Sequence[Retraining],
    models: Sequence[TestedModel | None],
    choices: Choices,
    study: OpenStudy,
) -> list[str]:
    """Score the models on the further tests that they lack; return a sentence for each failure."""
    due = list_due(retrainer.folder.path, [model.label for model in models if model], list_tests(choices))
    if not due:
        return []
    retrainer.console.print("Scoring the models on further images, without training:")
    found = retrainer.score(retrainings, due)
    study.fetch_models()
    failed = {label: each.reason for label, each in found.items() if isinstance(each, Failure)}
    return [f"The further tests of {label} failed: {reason}." for label, reason in failed.items()]


def _open(study: OpenStudy, choices: Choices, console: Console) -> None:
    """Record the choices, then that the test split is about to be opened, unless both are recorded."""
    evaluations = study.manifest["evaluations"]
    complete_entries(evaluations, study.journal.list_openings())
    last = read_entry(evaluations[-1]) if evaluations else None
    if last != choices:
        if last is not None and evaluations[-1]["opened"]:
            names = [field.name for field in dataclasses.fields(Choices)]
            changed = ", ".join(name for name in names if getattr(last, name) != getattr(choices, name))
            console.print(
                f"The test split is opened once more, because of changes ({changed}). The report counts this."
            )
        evaluations.append(build_entry(choices))
    study.save_manifest()
    for winner in choices.winners:
        _get_model_folder(study.config).delete_checkpoint(f"{winner.label}-threshold")
    if not evaluations[-1]["opened"]:
        opening = build_opening(evaluations, study.journal.list_openings())
        study.journal.add_opening(opening)
        evaluations[-1]["opened"] = opening
        study.save_manifest()


def _gather(study: OpenStudy, models: list[TestedModel], notes: Sequence[str]) -> Result:
    """Return the result with the stored predictions of its models."""
    config, manifest, journal = study.config, study.manifest, study.journal
    tests = {model.label: load_tests(_get_folder(config), model.label) for model in models}
    labels, _, _ = tests[models[0].label]
    if not all(np.array_equal(labels, others) for others, _, _ in tests.values()):
        raise InputError(
            f"the models of {config.location} were not tested on the same images: evaluate the study again"
        )
    return Result(
        study=config.name,
        config=config,
        manifest=manifest,
        models=models,
        trials=journal.load(),
        labels=labels,
        predictions={label: probabilities for label, (_, probabilities, _) in tests.items()},
        mistakes={label: mistakes for label, (_, _, mistakes) in tests.items()},
        further=load_further(_get_folder(config), tests, list_tests(read_entry(manifest["evaluations"][-1])), labels),
        notes=[*describe_openings(manifest["evaluations"], journal.list_openings()), *notes],
    )


def _get_folder(config: StudyConfig) -> Path:
    return config.directory / "models"


def _get_model_folder(config: StudyConfig) -> ModelFolder:
    return ModelFolder(f"{config.working_folder}/models", config.url)

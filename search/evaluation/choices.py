"""Chooses which configurations are retrained, and how often: by validation alone, recorded before any test."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from search.config.load import check
from search.config.schema import EvaluationConfig, StudyConfig
from search.evaluation.model_record import Retraining
from search.record.choices import Choices, Source, Winner
from search.record.provenance import describe_code
from search.record.trial import State, Trial
from trainables.config import IMAGE_SIZE, complete_params
from trainables.errors import InputError
from trainables.names import shorten
from trainables.seed import derive_seed

RULE = (
    "{best} validation {metric} at any epoch, the earlier trial in a tie; "
    "retrained on train and validation {until}; tested once"
)
DISTINCT = "; of equal configurations the best trial alone"
"""Addition to the rule if several configurations of an architecture are chosen."""

FRONT = "; also the trials on the front of {metric} and {cost}"
"""Addition to the rule if the front is retrained too."""


def choose_winners(
    trials: Sequence[Trial], architecture: str, top_k: int | None, size: int = IMAGE_SIZE
) -> list[Trial]:
    """Return an architecture's best finished trials by their best validation metric, the earlier one in a tie.

    Of trials with the same configuration at this size of the images, only the best counts. None as `top_k` returns all.
    """
    ended = [trial for trial in trials if trial.architecture == architecture and is_finished(trial)]
    best: dict[frozenset[tuple[str, Any]], Trial] = {}
    for trial in sorted(ended, key=lambda trial: (-trial.score, trial.number)):
        best.setdefault(frozenset(complete_params(architecture, trial.params, size).items()), trial)
    return list(best.values())[:top_k]


def is_finished(trial: Trial) -> bool:
    """Return whether a trial may be chosen."""
    return trial.state in (State.COMPLETE, State.PRUNED) and bool(trial.epochs)


def check_winners(config: StudyConfig, trials: Sequence[Trial]) -> list[str]:
    """Check that there is something to retrain.

    Returns:
        A sentence for each architecture that has no finished trial, or only failed ones.

    Raises:
        InputError: If no architecture has one.
    """
    missing = []
    for architecture in config.search.architectures:
        mine = [trial for trial in trials if trial.architecture == architecture]
        failed = [trial for trial in mine if trial.state is State.FAIL]
        if choose_winners(mine, architecture, 1):
            continue
        if mine and len(failed) == len(mine):
            missing.append(f"Every {architecture} trial failed, trial {mine[0].number}: {mine[0].reason}.")
        else:
            missing.append(f"No {architecture} trial {'has finished' if mine else 'was run'}.")
    if len(missing) == len(config.search.architectures):
        raise InputError(f"there is nothing to evaluate. {' '.join(missing)}")
    return missing


def choose(
    config: StudyConfig,
    trials: Sequence[Trial],
    fingerprint: str,
    front: Collection[int] = (),
    sources: Sequence[Source] = (),
) -> Choices:
    """Choose the winners, and the trials of the front, by validation.

    A threshold or a temperature that validation will give is None.
    """
    wanted = config.evaluation
    # as float32, the type of the probabilities that are compared with it
    threshold = None if isinstance(wanted.threshold, str) else float(np.float32(wanted.threshold))
    recipes = name_recipes(config, trials)
    winners = [
        Winner(
            architecture=architecture,
            rank=rank,
            trial=trial.number,
            value=trial.get_peak()[0],
            epochs=trial.get_peak()[1] if wanted.max_train_images is None else config.search.count_epochs(architecture),
            threshold=threshold,
            temperature=_choose_temperature(wanted, architecture, rank),
            recipe=recipes.get(trial.number),
            front=trial.number in front,
        )
        for architecture in config.search.architectures
        for rank, trial in enumerate(choose_winners(trials, architecture, None, config.data.size), start=1)
        if rank <= wanted.top_k or trial.number in recipes or trial.number in front
    ]
    return Choices(
        rule=describe_rule(config),
        seeds=wanted.seeds,
        top_k=wanted.top_k,
        threshold=wanted.threshold,
        temperature=wanted.temperature,
        calibrate=wanted.calibrate,
        fingerprint=fingerprint,
        max_train_images=wanted.max_train_images,
        perturbations=wanted.list_perturbations(),
        sources=tuple(sources),
        winners=tuple(winners),
    )


def _choose_temperature(wanted: EvaluationConfig, architecture: str, rank: int) -> float | None:
    """Return a temperature; None if validation will give it.

    That needs a training on train alone, which takes as long as a retraining. So configurations other than the winners
    have a temperature from validation only if their threshold comes from there too.
    """
    if not isinstance(wanted.temperature, str):
        return wanted.temperature
    if wanted.calibrate != "all" and shorten(architecture) not in wanted.calibrate:
        return 1.0
    return None if rank <= wanted.top_k or isinstance(wanted.threshold, str) else 1.0


def describe_rule(config: StudyConfig) -> str:
    """Return in words how the winners are chosen and will be tested."""
    wanted, images = config.evaluation, config.evaluation.max_train_images
    until = "up to that epoch" if images is None else f"with {images} images for {config.search.describe_epochs()}"
    rule = RULE.format(best="best" if config.search.sign > 0 else "lowest", metric=config.search.metric, until=until)
    front = FRONT.format(metric=config.search.metric, cost=wanted.front_cost) if wanted.front else ""
    return rule + (DISTINCT if wanted.top_k > 1 else "") + front


def name_recipes(config: StudyConfig, trials: Sequence[Trial]) -> dict[int, str]:
    """Return trial number -> the recipe, of those that may be baselines, that the trial has, whoever proposed it."""
    found: dict[int, str] = {}
    named = zip(config.search.first, config.recipes, strict=False)
    for path, recipe in [each for each in named if config.evaluation.is_baseline(each[0])]:
        params = complete_params(recipe.architecture, recipe.params, config.data.size)
        for trial in trials:
            if (
                trial.architecture == recipe.architecture
                and complete_params(trial.architecture, trial.params, config.data.size) == params
            ):
                found.setdefault(trial.number, Path(path).stem)
    return found


def list_retrainings(config: StudyConfig, trials: Sequence[Trial], choices: Choices) -> list[Retraining]:
    """Return every retraining of the choices; a missing threshold counts as 0.5, a missing temperature as 1."""
    return [
        build_retraining(config, trials, winner, choices, seed)
        for winner in choices.winners
        for seed in range(choices.count_seeds(winner))
    ]


def build_retraining(
    config: StudyConfig, trials: Sequence[Trial], winner: Winner, choices: Choices, seed: int
) -> Retraining:
    """Return one retraining of a winner.

    Raises:
        InputError: If the winner is not among the trials.
    """
    images = config.data.max_train_images if choices.max_train_images is None else choices.max_train_images
    trial = trials[winner.trial] if winner.trial < len(trials) else None
    if trial is None or trial.architecture != winner.architecture or not is_finished(trial):
        raise InputError(f"study.yaml: the winner {winner.label} is trial {winner.trial}, which has not finished here")
    return Retraining(
        label=f"{winner.label}-seed{seed}",
        architecture=winner.architecture,
        rank=winner.rank,
        seed=seed,
        trial=winner.trial,
        params=trial.params,
        train_seed=derive_seed(config.search.seed, f"retraining {winner.architecture} {winner.rank} {seed}"),
        max_epochs=config.search.count_epochs(trial.architecture),
        epochs=winner.epochs,
        max_train_images=None if images == "all" else images,
        split_seed=config.search.seed,
        fingerprint=choices.fingerprint,
        threshold=0.5 if winner.threshold is None else winner.threshold,
        temperature=1.0 if winner.temperature is None else winner.temperature,
    )


def build_calibration(config: StudyConfig, trials: Sequence[Trial], winner: Winner, choices: Choices) -> Retraining:
    """Return the training on train alone that gives a winner's threshold, temperature and curve."""
    retraining = build_retraining(config, trials, winner, choices, seed=0)
    seed = derive_seed(config.search.seed, f"threshold {winner.architecture} {winner.rank}")
    return dataclasses.replace(retraining, label=f"{winner.label}-threshold", train_seed=seed)


def reuse_calibration(evaluations: Sequence[Mapping[str, Any]], choices: Choices) -> Choices:
    """Return these choices with the values from validation that the last recorded ones have for the same models."""
    last = read_entry(evaluations[-1]) if evaluations else None
    if last is None or not last.is_measured_like(choices):
        return choices
    known = (last.find_measured(winner) if choices.needs_calibration(winner) else None for winner in choices.winners)
    winners = (
        winner.complete(each.threshold, each.temperature, each.curve, each.failure) if each else winner
        for winner, each in zip(choices.winners, known, strict=True)
    )
    return dataclasses.replace(choices, winners=tuple(winners))


def build_entry(choices: Choices) -> dict[str, Any]:
    """Return the entry for `evaluations`: the choices, the time, and the commit."""
    winners = [dataclasses.asdict(winner) for winner in choices.winners]
    return {"chosen": stamp(), **dataclasses.asdict(choices), "winners": winners, "opened": None}


def read_entry(entry: Mapping[str, Any]) -> Choices:
    """Return the choices of an entry.

    Raises:
        InputError: If the entry is damaged.
    """
    return check(Choices, entry, "study.yaml, evaluations,")


def stamp() -> dict[str, Any]:
    """Return the current time and commit."""
    code = describe_code()
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "commit": code["commit"], "dirty": code["dirty"]}

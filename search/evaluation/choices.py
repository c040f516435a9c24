"""Chooses what is retrained, how often, and by which rule: by validation alone, recorded before any test."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from search.config.load import check
from search.config.schema import StudyConfig
from search.evaluation.model_record import Retraining
from search.record.choices import Choices, Winner
from search.record.provenance import describe_code
from search.record.trial import State, Trial
from trainables.config import list_effective
from trainables.errors import InputError
from trainables.seed import derive_seed

RULE = (
    "best validation accuracy at any epoch, the earlier trial in a tie; "
    "retrained on train and validation up to that epoch; tested once"
)
DISTINCT = "; of equal configurations the best trial alone"
"""What the rule adds where more than the best of an architecture are chosen."""


def choose_winners(trials: Sequence[Trial], architecture: str, top_k: int | None) -> list[Trial]:
    """Return an architecture's best finished trials by their best validation accuracy; the earlier one wins a tie.

    Trials of the same configuration count once, as the best of them.

    Args:
        trials: Of any architecture.
        architecture: The one.
        top_k: How many at most; None is all.
    """
    ended = [trial for trial in trials if trial.architecture == architecture and is_finished(trial)]
    best: dict[frozenset[tuple[str, Any]], Trial] = {}
    for trial in sorted(ended, key=lambda trial: (-trial.get_peak()[0], trial.number)):
        best.setdefault(frozenset(list_effective(architecture, trial.params).items()), trial)
    return list(best.values())[:top_k]


def is_finished(trial: Trial) -> bool:
    """Answer whether a trial may win."""
    return trial.state in (State.COMPLETE, State.PRUNED) and bool(trial.epochs)


def check_winners(config: StudyConfig, trials: Sequence[Trial]) -> list[str]:
    """Check that there is something to retrain.

    Returns:
        A sentence for each architecture that has nothing: no finished trial, or none that did not fail.

    Raises:
        InputError: If no architecture has anything.
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


def choose(config: StudyConfig, trials: Sequence[Trial], fingerprint: str) -> Choices:
    """Choose the winners by validation; thresholds that are to be chosen on validation stay None."""
    wanted = config.evaluation
    # a float32, so that it is the same number wherever a probability, which is one, is compared with it
    threshold = None if isinstance(wanted.threshold, str) else float(np.float32(wanted.threshold))
    recipes = name_recipes(config, trials) if wanted.baselines else {}
    winners = [
        Winner(
            architecture=architecture,
            rank=rank,
            trial=trial.number,
            accuracy=trial.get_peak()[0],
            epochs=trial.get_peak()[1],
            threshold=threshold,
            recipe=recipes.get(trial.number),
        )
        for architecture in config.search.architectures
        for rank, trial in enumerate(choose_winners(trials, architecture, None), start=1)
        if rank <= wanted.top_k or trial.number in recipes
    ]
    return Choices(
        rule=RULE + (DISTINCT if wanted.top_k > 1 else ""),
        seeds=wanted.seeds,
        top_k=wanted.top_k,
        threshold=wanted.threshold,
        fingerprint=fingerprint,
        winners=tuple(winners),
    )


def name_recipes(config: StudyConfig, trials: Sequence[Trial]) -> dict[int, str]:
    """Return by number every trial of a point of `search.first`, also one proposed later, with the point's file."""
    found: dict[int, str] = {}
    for path, recipe in zip(config.search.first, config.recipes, strict=False):
        params = list_effective(recipe.architecture, recipe.params)
        for trial in trials:
            if trial.architecture == recipe.architecture and list_effective(trial.architecture, trial.params) == params:
                found.setdefault(trial.number, Path(path).stem)
    return found


def list_retrainings(config: StudyConfig, trials: Sequence[Trial], choices: Choices) -> list[Retraining]:
    """Return every retraining that choices come to; a threshold that is still to be chosen counts as 0.5."""
    return [
        build_retraining(config, trials, winner, choices.fingerprint, seed)
        for winner in choices.winners
        for seed in range(choices.seeds)
    ]


def build_retraining(
    config: StudyConfig, trials: Sequence[Trial], winner: Winner, fingerprint: str, seed: int
) -> Retraining:
    """Return one retraining of a winner.

    Raises:
        InputError: If the trials do not have the winner among them.
    """
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
        max_epochs=config.search.max_epochs,
        epochs=winner.epochs,
        max_train_images=config.data.max_train_images,
        split_seed=config.search.seed,
        fingerprint=fingerprint,
        threshold=0.5 if winner.threshold is None else winner.threshold,
    )


def build_calibration(config: StudyConfig, trials: Sequence[Trial], winner: Winner, fingerprint: str) -> Retraining:
    """Return the training on train alone that a winner's threshold is chosen with."""
    retraining = build_retraining(config, trials, winner, fingerprint, seed=0)
    seed = derive_seed(config.search.seed, f"threshold {winner.architecture} {winner.rank}")
    return dataclasses.replace(retraining, label=f"{winner.label}-threshold", train_seed=seed)


def recall(evaluations: Sequence[Mapping[str, Any]], choices: Choices) -> Choices:
    """Return the choices that are in force if they are these, for they have their thresholds; else these."""
    last = read_entry(evaluations[-1]) if evaluations else None
    return last if last is not None and last.is_same(choices) else choices


def build_entry(choices: Choices) -> dict[str, Any]:
    """Return the entry for `evaluations` that says what was chosen, when and by which code."""
    return {"chosen": stamp(), **_plain(choices), "opened": None}


def read_entry(entry: Mapping[str, Any]) -> Choices:
    """Read what `build_entry` gave.

    Raises:
        InputError: If it is something else.
    """
    return check(Choices, entry, "study.yaml, evaluations,")


def stamp() -> dict[str, Any]:
    """Return time and commit of an act."""
    code = describe_code()
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "commit": code["commit"], "dirty": code["dirty"]}


def _plain(choices: Choices) -> dict[str, Any]:
    """Return choices as plain values."""
    return dataclasses.asdict(choices) | {"winners": [dataclasses.asdict(winner) for winner in choices.winners]}

"""Reads the trials of earlier studies when a study starts that learns from them."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from search.config.conditions import drop_inactive, list_conditions
from search.config.schema import JOURNAL, StudyConfig
from search.config.space import find_outside, list_specs
from search.record.reading import read_study
from search.record.trial import State, Trial
from trainables.errors import InputError
from trainables.files import hash_file


def learn(config: StudyConfig, note: Callable[[str], None]) -> tuple[list[Trial], dict[str, str | None]]:
    """Return the trials of the studies of `search.learn_from`, and the hashes of their journals.

    Raises:
        InputError: If one is missing or damaged, has another metric or goal, or is the study itself.
    """
    found: list[Trial] = []
    hashes: dict[str, str | None] = {}
    for place in config.search.learn_from:
        if place.rstrip("/") == config.url or Path(place).resolve() == config.directory.resolve():
            raise InputError(f"search.learn_from: {place} is this study itself: leave it out")
        try:
            with read_study(place) as study:
                study.refresh()
                trials = study.journal.load() if study.journal else []
                if study.journal:
                    study.journal.close()
                file = study.directory / JOURNAL
                hashes[place] = hash_file(file) if file.exists() else None
        except InputError as error:
            raise InputError(f"search.learn_from: {error}") from None
        for key, name in (("metric", "metric"), ("sign", "goal")):
            if getattr(study.config.search, key) != getattr(config.search, key):
                raise InputError(f"search.learn_from: {place} has another search.{name}: leave it out")
        known, num_outside = _select(config, place, trials)
        note(f"{place}: the samplers learn from {len(known)} trials; {num_outside} are outside this study's space")
        found += known
    return found, hashes


def _select(config: StudyConfig, place: str, trials: Iterable[Trial]) -> tuple[list[Trial], int]:
    """Return the ended trials of an earlier study in this one's space, and the number of those outside."""
    ended = [trial for trial in trials if trial.state in (State.COMPLETE, State.PRUNED)]
    spaces = {name: list_specs(config.space, name) for name in config.search.architectures}
    known = [
        dataclasses.replace(
            trial,
            params=drop_inactive(list_conditions(specs), trial.params),
            attributes={"learnt_from": place},
            noted={},
            started=None,
            ended=None,
        )
        for trial in ended
        if (specs := spaces.get(trial.architecture)) is not None
        if find_outside(specs, trial.architecture, trial.params) is None
    ]
    return known, len(ended) - len(known)

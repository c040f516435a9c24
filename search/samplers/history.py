"""The trials of one architecture in memory, in the form in which Optuna's samplers read them and write attributes."""

import bisect
import json
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.samplers.values import Values

STUDY = "study:"
"""Prefix of a trial's attribute for an attribute of the study that a sampler wrote: [order, value]."""


class History(optuna.storages.InMemoryStorage):
    """A storage that returns the trials it was given, without copies.

    A trial's number is its id. A study attribute that a sampler writes becomes one of the trial that the sampler
    is asked about, so the trials contain all that is known. Values are read as the journal will return them.
    """

    get_best_trial = BaseStorage.get_best_trial

    def __init__(self, sign: int, levels: Sequence[int]) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.create_new_study([StudyDirection.MINIMIZE if sign < 0 else StudyDirection.MAXIMIZE], "study")
        self.trials: list[FrozenTrial] = []
        self.values = Values(levels)
        self.asked = 0
        """Number of the trial that the sampler is asked about."""

    def add(self, trial: FrozenTrial, number: int) -> None:
        """Add a trial; the trials are sorted, because a resumed study takes them in by number."""
        trial.number = trial._trial_id = number
        self.trials.insert(self._find(number), trial)

    def remove(self, number: int) -> None:
        """Remove a trial."""
        del self.trials[self._find(number)]

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002 Optuna's names
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials, or only those in some states if `states` is given."""
        return [trial for trial in self.trials if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial."""
        return self.trials[self._find(trial_id)]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep an attribute of a trial that a sampler writes."""
        self.get_trial(trial_id).system_attrs[key] = json.loads(json.dumps(value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ARG002 Optuna's name
        """Keep an attribute of the study that a sampler writes, with the trial that it is asked about."""
        last = max((order for order, _, _ in self._list_written()), default=0)
        self.set_trial_system_attr(self.asked, STUDY + key, [last + 1, value])

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: ARG002 Optuna's name
        """Return the attributes of the study that samplers wrote, each with its last value."""
        return {key: value for _, key, value in sorted(self._list_written(), key=lambda written: written[0])}

    def _find(self, number: int) -> int:
        return bisect.bisect_left(self.trials, number, key=lambda trial: trial.number)

    def _list_written(self) -> list[tuple[int, str, Any]]:
        return [
            (value[0], key.removeprefix(STUDY), value[1])
            for trial in self.trials
            for key, value in trial.system_attrs.items()
            if key.startswith(STUDY)
        ]

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("a sampler may write system attributes of trials and of the study, and nothing else")

    create_new_trial = set_study_user_attr = _refuse

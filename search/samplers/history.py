"""The trials of one architecture in memory, as Optuna's samplers read them."""

from collections.abc import Container
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


class History(optuna.storages.InMemoryStorage):
    """A storage that returns the trials it was given, without copies; what samplers write to it is discarded."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[FrozenTrial] = []

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002 Optuna's names
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials, those in some states only if `states` is given."""
        return [trial for trial in self.trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Discard what a sampler notes about a proposal."""

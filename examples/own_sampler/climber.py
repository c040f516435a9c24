"""A sampler in one class: it changes some parameters of the best trial so far."""

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState


class Climber(optuna.samplers.BaseSampler):
    """Keeps each parameter of the best trial with a probability of 2/3, and draws the others at random."""

    def __init__(self, *, seed: int, n_startup_trials: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.random = optuna.samplers.RandomSampler(seed=seed)
        self.num_startup_trials = n_startup_trials

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return an empty space, because no parameters are proposed together."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Propose nothing."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Propose a value of one parameter."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        if len(ended) < self.num_startup_trials or self.generator.random() > 2 / 3:
            return self.random.sample_independent(study, trial, param_name, param_distribution)
        return max(ended, key=lambda known: known.values[0]).params[param_name]

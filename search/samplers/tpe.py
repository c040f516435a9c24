"""TPE that samples each parameter by itself, faster than Optuna's."""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import FrozenTrial, TrialState


class IndependentTPESampler(TPESampler):
    """Optuna's TPE with independent parameters; the trials are split into good and bad once for all parameters.

    Optuna repeats the split for each parameter, which is most of the work of a proposal. The proposals are the same.
    """

    def __init__(self, seed: int, startup: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup, multivariate=False)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,  # noqa: ARG002 Optuna's name
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Propose a value for each parameter of the space; none while the number of ended trials is below startup."""
        trials = [
            known for known in study._storage.get_all_trials(study._study_id) if known.state is not TrialState.FAIL
        ]
        num_ended = sum(known.state.is_finished() for known in trials)
        if num_ended < self._n_startup_trials:
            return {}
        good, bad = _split_trials(study, trials, default_gamma(num_ended))
        return {name: self._draw(study, name, known, good, bad) for name, known in search_space.items()}

    def _draw(
        self,
        study: optuna.Study,
        name: str,
        distribution: BaseDistribution,
        good: list[FrozenTrial],
        bad: list[FrozenTrial],
    ) -> Any:
        space = {name: distribution}
        better = self._build_parzen_estimator(study, space, good, handle_below=True)
        worse = self._build_parzen_estimator(study, space, bad, handle_below=False)
        candidates = better.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(candidates, self._compute_acquisition_func(candidates, better, worse))
        return distribution.to_external_repr(chosen[name])

"""TPE that samples each parameter by itself, faster than Optuna's, and tame TPE, which has few candidates."""

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import FrozenTrial, TrialState

from search.samplers.history import History
from search.samplers.values import take_highest

NUM_CANDIDATES = 2
"""Candidates of tame TPE per parameter; with more, its proposals are too much alike. Source: LOG.md, 2026-11-29."""
MOST_BAD = 500
"""Largest number of bad trials that tame TPE uses, so that the cost of a proposal is bounded."""


class IndependentTPESampler(TPESampler):
    """Optuna's TPE with independent parameters; the trials are split into good and bad once for all parameters.

    Optuna repeats the split for each parameter, which is most of the work of a proposal. The proposals are the same.
    """

    def __init__(self, seed: int, startup: int, num_candidates: int = 24) -> None:
        super().__init__(seed=seed, n_startup_trials=startup, n_ei_candidates=num_candidates, multivariate=False)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Propose a value for each parameter of the space; none while the number of ended trials is below startup."""
        known = study._storage.get_all_trials(study._study_id)
        trials = [other for other in known if other.state is not TrialState.FAIL and other is not trial]
        num_ended = sum(other.state.is_finished() for other in trials)
        if num_ended < self._n_startup_trials:
            return {}
        good, bad = self._split(study, trials, default_gamma(num_ended))
        return {name: self._draw(study, name, known, good, bad) for name, known in search_space.items()}

    def _split(
        self, study: optuna.Study, trials: list[FrozenTrial], num_good: int
    ) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        return _split_trials(study, trials, num_good)

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


class TameTPESampler(IndependentTPESampler):
    """TPE with few candidates, and with the values of `search.samplers.values` in place of Optuna's order.

    Optuna counts any complete trial as better than any stopped one, and all running ones as bad. Here a running trial
    counts as bad only before its first rung: with many slots, most good trials are running ones after that rung.
    """

    def __init__(self, seed: int, startup: int) -> None:
        super().__init__(seed, startup, NUM_CANDIDATES)

    def _split(
        self, study: optuna.Study, trials: list[FrozenTrial], num_good: int
    ) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        assert isinstance(study._storage, History)
        values = take_highest(study._storage.values.compare([trial.number for trial in trials]))
        best = set(np.argsort(-values, kind="stable")[:num_good].tolist())
        good = [trial for place, trial in enumerate(trials) if place in best]
        bad = [trial for place, trial in enumerate(trials) if place not in best]
        if len(bad) > MOST_BAD:
            kept = self._rng.rng.choice(len(bad), MOST_BAD, replace=False)
            bad = [bad[place] for place in sorted(kept)]
        return good, bad

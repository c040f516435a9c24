"""Samplers: who proposes parameters, as a pure function of seed, trial number and history.

Each architecture has a sampler and a history of its own: in a shared one, every trial of the weaker architecture
would count as bad, and nothing would be learnt about what makes that architecture better.
"""

import bisect
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.record.trial import State, Trial


class Sampler:
    """Proposes parameters for one architecture.

    It mirrors that architecture's part of the record in memory and keeps nothing else, so a new one that takes in
    the same record goes on with the same proposals.
    """

    def __init__(self, name: str, distributions: Mapping[str, BaseDistribution], *, seed: int, startup: int) -> None:
        self._name = name
        self._distributions = dict(distributions)
        self._seed = seed
        self._startup = startup
        self._history = _History()
        self._history.create_new_study([StudyDirection.MAXIMIZE], "study")
        self._mirrored: dict[int, FrozenTrial] = {}

    def propose(self, number: int) -> dict[str, Any]:
        """Return a value for each searched parameter of the trial of this number.

        Optuna's sampler is asked itself. `Study.ask` would look up the space in all trials and keep a trial of its own
        for each proposal, with copies of it at every parameter.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = SAMPLERS[self._name](self._seed, number, self._startup)
            study = optuna.Study("study", self._history, sampler=sampler)
            asking = create_trial(state=TrialState.RUNNING)
            asking.number = number
            params = sampler.sample_relative(study, asking, self._list_relative())
            for name, distribution in self._distributions.items():
                if distribution.single():
                    params[name] = distribution.to_external_repr(_get_only(distribution))
                elif name not in params:
                    params[name] = sampler.sample_independent(study, asking, name, distribution)
        return {name: params[name] for name in self._distributions}

    def start(self, trial: Trial) -> None:
        """Take in a trial that was handed out: it counts as running, unless it lies outside a space changed since."""
        try:
            mirrored = create_trial(
                state=TrialState.RUNNING,
                params={name: trial.params[name] for name in self._distributions},
                distributions=self._distributions,
            )
        except (ValueError, KeyError, TypeError):
            return
        mirrored.number = trial.number
        self._mirrored[trial.number] = mirrored
        bisect.insort(self._history.trials, mirrored, key=lambda known: known.number)  # as a resumed study has them

    def end(self, trial: Trial) -> None:
        """Take in how a trial ended: its whole curve, its final state, and its best epoch as its value."""
        if (mirrored := self._mirrored.pop(trial.number, None)) is None:
            return
        mirrored.intermediate_values = dict(enumerate(trial.list_values(), start=1))
        mirrored.state = TrialState[trial.state]
        mirrored.values = None if trial.state is State.FAIL else [trial.get_peak()[0]]

    def _list_relative(self) -> dict[str, BaseDistribution]:
        """Return what is proposed at once: all that has a choice; of a sequence of points what is a number."""
        searched = {name: known for name, known in self._distributions.items() if not known.single()}
        if self._name == "qmc":
            return {name: known for name, known in searched.items() if not isinstance(known, CategoricalDistribution)}
        return searched


class _History(optuna.storages.InMemoryStorage):
    """A storage whose trials are given, for samplers to read; what they write about a proposal is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[FrozenTrial] = []

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002 Optuna's names
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return [trial for trial in self.trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass


class _IndependentTPESampler(TPESampler):
    """Optuna's TPE with each parameter by itself, the trials divided into good and bad once for all of them.

    Optuna divides them anew for each parameter, which is most of the work of a proposal; what comes out is the same.
    """

    def __init__(self, seed: int, startup: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup, multivariate=False)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,  # noqa: ARG002 Optuna's name
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        trials = [
            known for known in study._storage.get_all_trials(study._study_id) if known.state is not TrialState.FAIL
        ]
        num_ended = sum(known.state.is_finished() for known in trials)
        if num_ended < self._n_startup_trials:
            return {}
        divided = _split_trials(study, trials, default_gamma(num_ended))
        return {name: self._draw(study, name, known, *divided) for name, known in search_space.items()}

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


class _QuasiRandomSampler(QMCSampler):
    """Optuna's QMC sampler with the trial's number as the place in the sequence, in place of a counter it keeps."""

    def __init__(self, sequence_seed: int, independent_seed: int, number: int) -> None:
        independent = RandomSampler(seed=independent_seed)
        super().__init__(scramble=True, seed=sequence_seed, independent_sampler=independent)
        self._warn_independent_sampling = False
        self._number = number

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:  # noqa: ARG002 Optuna's
        return self._number


SAMPLERS: dict[str, Callable[[int, int, int], BaseSampler]] = {
    "tpe": lambda root, number, startup: _IndependentTPESampler(_derive_seed(root, number), startup),
    "tpe_multivariate": lambda root, number, startup: TPESampler(
        seed=_derive_seed(root, number), n_startup_trials=startup, multivariate=True
    ),
    "random": lambda root, number, _: RandomSampler(seed=_derive_seed(root, number)),
    "gp": lambda root, number, startup: GPSampler(
        seed=_derive_seed(root, number), n_startup_trials=startup, warn_independent_sampling=False
    ),
    "qmc": lambda root, number, _: _QuasiRandomSampler(root, _derive_seed(root, number), number),
}
"""Name -> sampler for one proposal, made from the search's seed, the trial's number and the count of random trials."""


def _get_only(distribution: BaseDistribution) -> float:
    """Return the internal value of a distribution that has no other."""
    return float(distribution.low) if isinstance(distribution, IntDistribution | FloatDistribution) else 0.0


def _derive_seed(root: int, number: int) -> int:
    """Return the seed of one trial's proposal: 32 bits that no other trial of the study shares by design."""
    return int(np.random.SeedSequence([root, number]).generate_state(1)[0])

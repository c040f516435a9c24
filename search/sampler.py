"""Samplers: who proposes parameters, as a pure function of seed, trial number and history.

Each architecture has a sampler and a history of its own: in a shared one, every trial of the weaker architecture
would count as bad, and nothing would be learnt about what makes that architecture better.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.journal import State, Trial


class Sampler:
    """Proposes parameters for one architecture.

    It mirrors that architecture's part of the record in memory and keeps nothing else, so a new one that takes in
    the same record goes on with the same proposals.
    """

    def __init__(self, name: str, distributions: Mapping[str, BaseDistribution], *, seed: int, startup: int) -> None:
        self._make_sampler = SAMPLERS[name]
        self._distributions = dict(distributions)
        self._seed = seed
        self._startup = startup
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, direction="maximize")
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._mirrored: dict[int, int] = {}

    def propose(self, number: int) -> dict[str, Any]:
        """Return a value for each searched parameter of the trial of this number."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self._make_sampler(_derive_seed(self._seed, number), number, self._startup)
            is_slow = isinstance(sampler, TPESampler | GPSampler)
            self._study.sampler = _InKnownSpace(sampler, self._distributions) if is_slow else sampler
            asked = self._study.ask(self._distributions)
        self._study.tell(asked.number, state=TrialState.FAIL)
        return dict(asked.params)

    def start(self, trial: Trial) -> None:
        """Take in a trial that was handed out: it counts as running, unless it lies outside a space changed since."""
        try:
            template = create_trial(
                state=TrialState.RUNNING,
                params={name: trial.params[name] for name in self._distributions},
                distributions=self._distributions,
            )
        except ValueError:
            return
        self._mirrored[trial.number] = self._storage.create_new_trial(self._study_id, template)

    def end(self, trial: Trial) -> None:
        """Take in how a trial ended: its whole curve, its final state, and its best epoch as its value."""
        if (mirrored := self._mirrored.pop(trial.number, None)) is None:
            return
        for epoch, value in enumerate(trial.list_values(), start=1):
            self._storage.set_trial_intermediate_value(mirrored, epoch, value)
        final = None if trial.state is State.FAIL else [trial.get_peak()[0]]
        self._storage.set_trial_state_values(mirrored, TrialState[trial.state], final)


class _InKnownSpace(BaseSampler):
    """A sampler that is told the space, which it would else look up in all trials for each proposal."""

    def __init__(self, sampler: BaseSampler, distributions: Mapping[str, BaseDistribution]) -> None:
        self._sampler = sampler
        self._space = {name: known for name, known in distributions.items() if not known.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return dict(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


class _QuasiRandomSampler(QMCSampler):
    """Optuna's QMC sampler with the trial's number as the place in the sequence, in place of a counter it keeps."""

    def __init__(self, sequence_seed: int, independent_seed: int, number: int) -> None:
        independent = RandomSampler(seed=independent_seed)
        super().__init__(scramble=True, seed=sequence_seed, independent_sampler=independent)
        self._warn_independent_sampling = False
        self._number = number

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:  # noqa: ARG002
        return self._number


SAMPLERS: dict[str, Callable[[int, int, int], BaseSampler]] = {
    "tpe": lambda seed, _, startup: TPESampler(seed=seed, n_startup_trials=startup, multivariate=True),
    "random": lambda seed, *_: RandomSampler(seed=seed),
    "gp": lambda seed, _, startup: GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False),
    "qmc": lambda seed, number, _: _QuasiRandomSampler(0, seed, number),
}
"""Name -> sampler for one proposal, made from the trial's seed, its number and the count of random trials."""


def _derive_seed(root: int, number: int) -> int:
    """Return the seed of one trial's proposal: 32 bits that no other trial of the study shares by design."""
    return int(np.random.SeedSequence([root, number]).generate_state(1)[0])

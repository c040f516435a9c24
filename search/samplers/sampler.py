"""The sampler of one architecture, and the table of Optuna's samplers that it can use.

A proposal is a pure function of the study's seed, the trial's number and the architecture's history. Each architecture
has its own history: in a shared one, every trial of the weaker architecture would count as bad, and the sampler would
learn nothing about that architecture.
"""

import bisect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.record.trial import State, Trial
from search.samplers.history import History
from search.samplers.qmc import QuasiRandomSampler
from search.samplers.tpe import IndependentTPESampler


class Sampler:
    """Proposes parameters for the trials of one architecture.

    Its only state is a copy of that architecture's trials. A new sampler that takes in the same trials makes the same
    proposals.
    """

    def __init__(self, name: str, distributions: Mapping[str, BaseDistribution], *, seed: int, startup: int) -> None:
        self._name = name
        self._distributions = dict(distributions)
        self._seed = seed
        self._startup = startup
        self._history = History()
        self._history.create_new_study([StudyDirection.MAXIMIZE], "study")
        self._running: dict[int, FrozenTrial] = {}

    def propose(self, number: int) -> dict[str, Any]:
        """Return a value for each searched parameter of a trial.

        This calls Optuna's sampler directly. `optuna.Study.ask` would search all trials for the space, store a trial
        for each proposal, and copy it at every parameter.
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
        """Take in a trial that starts; a trial outside the space, which may have changed since, is left out."""
        try:
            started = create_trial(
                state=TrialState.RUNNING,
                params={name: trial.params[name] for name in self._distributions},
                distributions=self._distributions,
            )
        except (ValueError, KeyError, TypeError):
            return
        started.number = trial.number
        self._running[trial.number] = started
        # Sorted, because a resumed study takes them in by number.
        bisect.insort(self._history.trials, started, key=lambda known: known.number)

    def end(self, trial: Trial) -> None:
        """Take in the end of a trial: its curve, its final state, and the value of its best epoch."""
        if (ended := self._running.pop(trial.number, None)) is None:
            return
        ended.intermediate_values = dict(enumerate(trial.list_values(), start=1))
        ended.state = TrialState[trial.state]
        ended.values = None if trial.state is State.FAIL else [trial.get_peak()[0]]

    def _list_relative(self) -> dict[str, BaseDistribution]:
        """Return the parameters that are proposed together: all with more than one value; for qmc, only numbers."""
        searched = {name: known for name, known in self._distributions.items() if not known.single()}
        if self._name == "qmc":
            return {name: known for name, known in searched.items() if not isinstance(known, CategoricalDistribution)}
        return searched


SAMPLERS: dict[str, Callable[[int, int, int], BaseSampler]] = {
    "tpe": lambda root, number, startup: IndependentTPESampler(_derive_seed(root, number), startup),
    "tpe_multivariate": lambda root, number, startup: TPESampler(
        seed=_derive_seed(root, number), n_startup_trials=startup, multivariate=True
    ),
    "random": lambda root, number, _: RandomSampler(seed=_derive_seed(root, number)),
    "gp": lambda root, number, startup: GPSampler(
        seed=_derive_seed(root, number), n_startup_trials=startup, warn_independent_sampling=False
    ),
    "qmc": lambda root, number, _: QuasiRandomSampler(root, _derive_seed(root, number), number),
}
"""Name -> sampler for one proposal, built from the study's seed, the trial's number and the number of random trials."""


def _get_only(distribution: BaseDistribution) -> float:
    """Return the only value of a distribution, in Optuna's internal representation."""
    return float(distribution.low) if isinstance(distribution, IntDistribution | FloatDistribution) else 0.0


def _derive_seed(root: int, number: int) -> int:
    """Return the seed of one trial's proposal, 32 bits."""
    return int(np.random.SeedSequence([root, number]).generate_state(1)[0])

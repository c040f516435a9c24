"""The sampler of one architecture, and the table of our samplers; `own` handles those named `module:Name`.

A proposal is a pure function of the study's seed, the trial's number and the architecture's history. Each architecture
has its own history: in a shared one, every trial of the weaker architecture would count as bad, and the sampler would
learn nothing about that architecture.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.conditions import Conditions, is_active, list_conditions, select
from search.config.search import SearchConfig
from search.config.space import Spec, build_distributions
from search.record.trial import State, Trial
from search.samplers.history import History
from search.samplers.tpe import IndependentTPESampler, TameTPESampler
from search.samplers.values import list_levels


class Sampler:
    """Proposes parameters for the trials of one architecture.

    Its only state is a copy of that architecture's trials. A new sampler that takes in the same trials makes the same
    proposals.
    """

    def __init__(
        self,
        name: str,
        distributions: Mapping[str, BaseDistribution],
        conditions: Conditions | None = None,
        *,
        seed: int,
        startup: int,
        sign: int = 1,
        levels: Sequence[int] = (1,),
    ) -> None:
        self._name = name
        self.distributions = dict(distributions)
        self.seed = seed
        self.startup = startup
        self.conditions = conditions or {}
        self._history = History(sign, levels)
        self.noted: dict[int, dict[str, Any]] = {}
        """Number of a proposed trial -> attributes that were written about it, until they are recorded."""
        self._running: dict[int, FrozenTrial] = {}

    @classmethod
    def build(cls, search: SearchConfig, specs: Mapping[str, Spec], architecture: str) -> Self:
        """Return the sampler of one architecture in a study."""
        return cls(
            search.sampler,
            build_distributions(specs, architecture),
            list_conditions(specs),
            seed=search.seed,
            startup=search.num_startup_trials,
            sign=search.sign,
            levels=list_levels(search, architecture),
        )

    def propose(self, number: int, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the searched parameters of a trial, without those whose condition does not hold.

        `noted` gets the attributes that Optuna's sampler wrote.

        This calls Optuna's sampler directly. `optuna.Study.ask` would search all trials for the space, store a trial
        for each proposal, and copy it at every parameter.

        Args:
            number: The trial's number.
            given: Values that replace proposed and fixed ones.
        """
        asking = create_trial(state=TrialState.RUNNING)
        self._history.add(asking, number)
        try:
            with self._open(number) as (sampler, study):
                sampler.before_trial(study, asking)
                space = self._list_relative(given or {}, sampler, study, asking)
                params = sampler.sample_relative(study, asking, space)
                for name, distribution in self.distributions.items():
                    if not is_active(self.conditions.get(name, {}), {**params, **(given or {})}):
                        params.pop(name, None)
                        continue
                    if distribution.single():
                        params[name] = distribution.to_external_repr(_get_only(distribution))
                    elif name not in params:
                        params[name] = sampler.sample_independent(study, asking, name, distribution)
                    asking.params[name] = self._accept(name, params[name])
                    asking.distributions[name] = distribution
        finally:
            self._history.remove(number)
        self.noted[number] = asking.system_attrs
        return asking.params

    def start(self, trial: Trial) -> None:
        """Take in a trial that starts; a trial outside the space is left out, since the space may have changed."""
        distributions = select(self.distributions, self.conditions, trial.params)
        try:
            started = create_trial(
                state=TrialState.RUNNING,
                params={name: trial.params[name] for name in distributions},
                distributions=distributions,
                system_attrs=dict(trial.noted),
            )
        except (ValueError, KeyError, TypeError):
            return
        self._running[trial.number] = started
        self._history.add(started, trial.number)
        self._history.values.start(trial)

    def after_trial(self, trial: Trial, state: State) -> dict[str, Any]:  # noqa: ARG002 others than ours may write something
        """Return what Optuna's sampler writes about a trial that is about to end; ours write nothing."""
        return {}

    def end(self, trial: Trial) -> None:
        """Take in the end of a trial: its curve, its final state, and the value of its best epoch."""
        if (ended := self._running.pop(trial.number, None)) is None:
            return
        ended.intermediate_values = dict(enumerate(trial.list_values(), start=1))
        ended.state = TrialState[trial.state]
        self._history.values.end(trial)
        ended.values = None if trial.state is State.FAIL or not trial.epochs else [trial.get_peak()[0]]

    @contextlib.contextmanager
    def _open(self, number: int) -> Iterator[tuple[BaseSampler, optuna.Study]]:
        """Yield a new sampler of Optuna, and the study that it reads, for a question about one trial."""
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            sampler = SAMPLERS[self._name](self, number)
            yield sampler, self._build_study(sampler, number)

    def _build_study(self, sampler: BaseSampler, number: int) -> optuna.Study:
        study = optuna.Study("study", self._history, sampler=sampler)
        study._thread_local.in_optimize_loop = True  # so that `study.stop` of an exhausted sampler raises nothing
        self._history.asked = number
        return study

    def _accept(self, name: str, value: Any) -> Any:  # noqa: ARG002 others than ours may propose anything
        """Return a proposed value as it is recorded."""
        return value

    def _list_relative(self, given: Mapping[str, Any], *_: Any) -> dict[str, BaseDistribution]:
        """Return the parameters proposed together: those with more than one value; for qmc, numbers.

        A parameter with a condition is among them only if the sampler can handle trials without it, and if the
        condition holds for the given values.
        """
        asked = select(self.distributions, self.conditions, {})
        if self._name in CONDITIONAL:
            for name, when in self.conditions.items():
                if name in self.distributions and all(
                    given[other] in values if other in given else other in asked for other, values in when.items()
                ):
                    asked[name] = self.distributions[name]
        searched = {name: known for name, known in asked.items() if not known.single()}
        if self._name == "qmc":
            return {name: known for name, known in searched.items() if not isinstance(known, CategoricalDistribution)}
        return searched


SAMPLERS: dict[str, Callable[[Sampler, int], BaseSampler]] = {
    "tpe": lambda own, number: IndependentTPESampler(derive_proposal_seed(own.seed, number), own.startup),
    "tpe_multivariate": lambda own, number: TPESampler(
        seed=derive_proposal_seed(own.seed, number), n_startup_trials=own.startup, multivariate=True
    ),
    "tpe_tame": lambda own, number: TameTPESampler(derive_proposal_seed(own.seed, number), own.startup),
    "random": lambda own, number: RandomSampler(seed=derive_proposal_seed(own.seed, number)),
    "gp": lambda own, number: GPSampler(
        seed=derive_proposal_seed(own.seed, number), n_startup_trials=own.startup, warn_independent_sampling=False
    ),
    "gp_rungs": lambda own, number: _build_gp_rungs(own, number),
    "portfolio": lambda own, number: SAMPLERS[_draw_part(own.seed, number)](own, number),
    "qmc": lambda own, number: _build_qmc(own, number),
}
"""Name -> function that builds the sampler of one proposal from the architecture's sampler and the trial's number."""
CONDITIONAL = ("gp_rungs", "portfolio", "tpe_tame")
"""Samplers that propose parameters with a condition together with the others."""
PARTS = {"random": 0.2, "tpe_tame": 0.4, "gp_rungs": 0.4}
"""Sampler -> its share of the proposals of portfolio. Source: LOG.md, 2026-11-29."""


def _get_only(distribution: BaseDistribution) -> float:
    """Return the only value of a distribution, in Optuna's internal representation."""
    return float(distribution.low) if isinstance(distribution, IntDistribution | FloatDistribution) else 0.0


def derive_proposal_seed(root: int, number: int) -> int:
    """Return the seed of one trial's proposal, 32 bits."""
    return int(np.random.SeedSequence([root, number]).generate_state(1)[0])


def _draw_part(root: int, number: int) -> str:
    """Return the sampler of the portfolio that proposes a trial."""
    generator = np.random.default_rng([root, number])
    return str(generator.choice(list(PARTS), p=list(PARTS.values())))


def _build_qmc(own: Sampler, number: int) -> BaseSampler:
    from search.samplers.qmc import QuasiRandomSampler

    return QuasiRandomSampler(own.seed, derive_proposal_seed(own.seed, number), number)


def _build_gp_rungs(own: Sampler, number: int) -> BaseSampler:
    from search.samplers.gp import GpRungsSampler  # imports scipy, so the first trial does not wait for it

    return GpRungsSampler(derive_proposal_seed(own.seed, number), own.startup, own.conditions)

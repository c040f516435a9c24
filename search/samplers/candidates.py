"""The configurations of one architecture that may become trials: complete, in the space, none proposed twice."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from search.config.conditions import drop_inactive
from search.config.schema import Recipe, StudyConfig
from search.config.space import Choice, Range, find_outside, list_specs
from search.config.space_checks import check_point
from search.record.trial import State, Trial
from search.record.trial_reader import read_point
from search.samplers.repeats import Repeats
from search.samplers.sampler import SAMPLERS, Sampler
from search.samplers.shares import choose_architecture
from trainables.config import list_defaults
from trainables.errors import InputError
from trainables.seed import derive_seed

EXHAUSTED = "every configuration of the space was tried; search.repeat=true allows repetitions"
"""Why a search ends that has no configuration left to propose."""


class Candidates:
    """Completes the points of samplers, recipes and `ask`, and replaces a proposal that was a trial before."""

    def __init__(self, config: StudyConfig, architecture: str, sampler: Sampler) -> None:
        self._architecture = architecture
        self.sampler = sampler
        self._specs = list_specs(config.space, architecture)
        self._size = config.data.size
        self._seed = config.search.seed
        self._repeats = Repeats(architecture, sampler.distributions, sampler.conditions, config.data.size)
        self._may_repeat = config.search.repeat
        self.is_exhausted = False
        """Whether every point of the space was proposed, so that no proposal is left."""

    def start(self, trial: Trial, *, is_first: bool) -> None:
        """Take in a trial that starts: its configuration is not proposed again, and the sampler learns from it.

        `search.first` may have a recipe outside the space, which is only for comparison.
        """
        if not self._may_repeat:
            self._repeats.add(trial.params)
        if not is_first or self.has(trial.params):
            self.sampler.start(trial)

    def end(self, trial: Trial) -> None:
        """Give the sampler the end of a trial; a trial that lacked memory counts as worse than all others.

        Samplers leave out failed trials, and for them a stopped trial without a value is the worst.
        """
        if trial.lacked_memory and not self._may_repeat:
            trial = dataclasses.replace(trial, state=State.PRUNED, epochs=[])
        self.sampler.end(trial)

    def has(self, params: Mapping[str, Any]) -> bool:
        """Return whether the space has a configuration."""
        return find_outside(self._specs, self._architecture, params) is None

    def propose(self, number: int) -> dict[str, Any] | None:
        """Return the configuration of a trial; None, and `is_exhausted` is set, if none is left."""
        lot = derive_seed(self._seed, f"neighbour {number}") % 2**32
        if (params := self._repeats.avoid(self._fill(number, {}), lot)) is None:
            self.sampler.noted.pop(number, None)
            self.is_exhausted = True
        return params

    def _fill(self, number: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value of every parameter whose condition holds: given, fixed by the space, or proposed."""
        fixed = {name: spec for name, spec in self._specs.items() if not isinstance(spec, Range | Choice)}
        proposed = self.sampler.propose(number, {**fixed, **given})
        return drop_inactive(self.sampler.conditions, {**fixed, **proposed, **given})

    def complete(self, number: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters of a trial for which some were given.

        Raises:
            InputError: If they are outside the space.
        """
        check_point(self._specs, self._architecture, given, self._size)
        params = self._fill(number, given)
        if lost := sorted(given.keys() - params.keys()):
            raise InputError(f"the condition of {lost[0]} does not hold: give the parameters that its `when` names too")
        return params


class Proposer:
    """Proposes the trials of a study: an architecture and its configuration."""

    def __init__(self, config: StudyConfig, names: Iterable[str], learnt: Iterable[Trial] = ()) -> None:
        """Prepare to propose.

        Args:
            config: The study.
            names: Its architectures, and those of trials of an earlier configuration.
            learnt: Trials of earlier studies, from which the samplers learn.
        """
        self._config = config
        kind = Sampler
        if config.search.sampler not in SAMPLERS:
            from search.samplers.own import OwnSampler

            kind = OwnSampler
        samplers = {name: kind.build(config.search, list_specs(config.space, name), name) for name in names}
        self.candidates = {name: Candidates(config, name, sampler) for name, sampler in samplers.items()}
        """By architecture."""
        self.is_exhausted = False
        """Whether no architecture has a configuration left."""
        known = list(learnt)
        for number, trial in enumerate(known, start=-len(known)):  # before the first of this study
            if sampler := samplers.get(trial.architecture):
                sampler.start(dataclasses.replace(trial, number=number))
                sampler.end(dataclasses.replace(trial, number=number))

    def propose(self, number: int, trials: Sequence[Trial]) -> tuple[str, dict[str, Any]] | None:
        """Return architecture and parameters of a new trial; None if no architecture has a configuration left."""
        names = self._config.search.architectures
        while left := [name for name in names if not self.candidates[name].is_exhausted]:
            architecture = choose_architecture(self._config, trials, left)
            if (params := self.candidates[architecture].propose(number)) is not None:
                return architecture, params
        self.is_exhausted = True
        return None

    def complete_recipe(self, recipe: Recipe) -> tuple[str, dict[str, Any]]:
        """Return architecture and all parameters of a recipe."""
        name = recipe.architecture
        return name, drop_inactive(self.candidates[name].sampler.conditions, list_defaults(name) | recipe.params)

    def complete(self, trial: Trial) -> tuple[str, dict[str, Any]]:
        """Return architecture and all parameters of an enqueued trial; those not given are fixed or proposed.

        Raises:
            InputError: If the point is outside the space.
        """
        if not trial.is_foreign:
            return trial.architecture, trial.params  # recorded before a kill; only the trial's state is missing
        names = self._config.search.architectures
        architecture, given = read_point(trial.enqueued, names)
        if architecture not in names:
            raise InputError(f"this study does not search {architecture}")
        return architecture, self.candidates[architecture].complete(trial.number, given)

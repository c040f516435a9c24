"""The configurations of one architecture that may become trials: completed, and in the space."""

from collections.abc import Mapping
from typing import Any

from search.config.conditions import drop_inactive
from search.config.schema import StudyConfig
from search.config.space import Choice, Range, find_outside, list_specs
from search.config.space_checks import check_point
from search.samplers.sampler import Sampler
from trainables.errors import InputError


class Candidates:
    """Completes what a sampler proposes, or what somebody asked for."""

    def __init__(self, config: StudyConfig, architecture: str, sampler: Sampler) -> None:
        self._architecture = architecture
        self._sampler = sampler
        self._specs = list_specs(config.space, architecture)
        self._size = config.data.size

    def has(self, params: Mapping[str, Any]) -> bool:
        """Answer whether the space has a configuration."""
        return find_outside(self._specs, self._architecture, params) is None

    def propose(self, number: int, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a value of every parameter whose condition holds: given, fixed by the space, or proposed."""
        fixed = {name: spec for name, spec in self._specs.items() if not isinstance(spec, Range | Choice)}
        given = given or {}
        proposed = self._sampler.propose(number, {**fixed, **given})
        return drop_inactive(self._sampler.conditions, {**fixed, **proposed, **given})

    def complete(self, number: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters of a trial for which somebody gave some.

        Raises:
            InputError: If they are outside the space.
        """
        check_point(self._specs, self._architecture, given, self._size)
        params = self.propose(number, given)
        if lost := sorted(given.keys() - params.keys()):
            raise InputError(f"the condition of {lost[0]} does not hold: enqueue what its `when` names too")
        return params

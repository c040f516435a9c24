"""Samplers that a study names as `module:Name`: Optuna's others, and the user's own.

Each proposal gets a new object, so that it depends on seed, number and history alone. A sampler that keeps other state,
in itself or in its module, would propose something else after a resume. It is refused if that can be detected.
"""

import contextlib
import io
import pickle
import random
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search.config.schema import StudyConfig
from search.config.space import list_specs
from search.record.trial import State, Trial
from search.samplers.sampler import Sampler, derive_proposal_seed
from trainables.errors import InputError
from trainables.names import build

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
"""Classes whose state may change, because each proposal begins with new objects."""
OPTIMIZERS = ("cma:optimizer", "sepcma:optimizer", "cmawm:optimizer")
"""Attributes in which Optuna's CmaEsSampler stores a pickle, in parts."""
PICKLED = {
    *("cmaes._cma.CMA", "cmaes._sepcma.SepCMA", "cmaes._cmawm.CMAwM", "numpy.dtype", "numpy.ndarray"),
    *("numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"),
}
"""Names that such a pickle may contain; one with other names is a stranger's."""


class OwnSampler(Sampler):
    """Proposes by a sampler of Optuna's interface, whose proposals are checked, and whose notes are recorded."""

    def start(self, trial: Trial) -> None:
        """Take in a trial that starts, after a check of what would be unpickled."""
        super().start(trial)
        if trial.number in self._running:
            check_optimizer(trial.noted, trial.number)

    def after_trial(self, trial: Trial, state: State) -> dict[str, Any]:
        """Return what the sampler writes about a trial that is about to end."""
        if (ending := self._running.get(trial.number)) is None:
            return {}
        before = dict(ending.system_attrs)
        ending.intermediate_values = dict(enumerate(trial.list_values(), start=1))
        values = None if state is State.FAIL else [trial.get_peak()[0]]
        with self._open(trial.number) as (sampler, study):
            sampler.after_trial(study, ending, TrialState[state], values)
        return {key: value for key, value in ending.system_attrs.items() if before.get(key) != value}

    @contextlib.contextmanager
    def _open(self, number: int) -> Iterator[tuple[BaseSampler, optuna.Study]]:
        offered = {"seed": derive_proposal_seed(self.seed, number), "n_startup_trials": self.startup}
        with warnings.catch_warnings(action="ignore"):  # it would warn at every proposal
            sampler = build(self._name, {**offered, "warn_independent_sampling": False}, "search.sampler")
            if not isinstance(sampler, BaseSampler):
                raise InputError(f"search.sampler = {self._name!r}: expected a subclass of Optuna's BaseSampler")
            with watch(self._name, sampler):
                yield sampler, self._build_study(sampler, number)

    def _accept(self, name: str, value: Any) -> Any:
        """Return a proposed value in plain Python, if it is in the space."""
        internal = self.distributions[name].to_internal_repr(value)
        if not self.distributions[name]._contains(internal):
            raise ValueError(f"it proposes {name} = {value!r}, outside the space")
        return self.distributions[name].to_external_repr(internal)

    def _list_relative(
        self,
        given: Mapping[str, Any],  # noqa: ARG002 only ours allow for them
        sampler: BaseSampler,
        study: optuna.Study,
        asking: FrozenTrial,
    ) -> dict[str, BaseDistribution]:
        return sampler.infer_relative_search_space(study, asking)


def check_sampler(config: StudyConfig) -> None:
    """Check, before a study starts, that its sampler can propose, and repeat a proposal.

    Raises:
        InputError: If not.
    """
    search = config.search
    for architecture in search.architectures:
        sampler = OwnSampler.build(search, list_specs(config.space, architecture), architecture)
        params, noted = sampler.propose(0), sampler.noted.pop(0)
        if (params, noted) != (sampler.propose(0), sampler.noted.pop(0)):
            raise InputError(
                f"search.sampler = {search.sampler!r} proposes something else when it is asked again, as a resumed "
                "study does: name `seed` in its constructor, and draw from a generator of that seed alone"
            )
        trial = Trial(number=0, architecture=architecture, params=params, epochs=[{"accuracy": 0.5}], noted=noted)
        sampler.start(trial)
        sampler.after_trial(trial, State.COMPLETE)
        trial.state = State.COMPLETE
        sampler.end(trial)
        sampler.propose(1)


@contextlib.contextmanager
def watch(name: str, sampler: BaseSampler) -> Iterator[None]:
    """Turn an error of a sampler into a sentence, and refuse the sampler if it changes itself.

    Raises:
        InputError: If the sampler raises an error, or has changed one of its attributes.
    """
    before = _freeze(sampler)
    try:
        yield
    except Exception as error:
        raise InputError(f"search.sampler = {name!r} fails ({type(error).__name__}: {error}): correct it") from error
    after = _freeze(sampler)
    if changed := [key for key in after if before.get(key) != after[key]]:
        raise InputError(
            f"search.sampler = {name!r} keeps {', '.join(changed)} between proposals, which a resumed study would "
            "lack: store it with study._storage.set_study_system_attr, or compute it from the trials"
        )


def check_optimizer(noted: Mapping[str, Any], number: int) -> None:
    """Check that the pickle that CmaEsSampler would load from a trial is an optimizer: a stranger may have written it.

    Raises:
        InputError: If it is not.
    """
    for prefix in OPTIMIZERS:
        if found := [key for key in noted if key.startswith(prefix)]:  # as Optuna takes them
            try:
                text = "".join(noted[f"{prefix}:{part}"] for part in range(len(found)))
                _Unpickler(io.BytesIO(bytes.fromhex(text))).load()
            except Exception as error:
                raise InputError(f"trial {number} has a wrong {prefix} ({error}): restore the journal") from error


class _Unpickler(pickle.Unpickler):
    """Restores only optimizers."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in PICKLED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


class _Pickler(pickle.Pickler):
    """Writes generators and Optuna's objects by the name of their class."""

    def persistent_id(self, obj: Any) -> str | None:
        is_free = isinstance(obj, GENERATORS) or type(obj).__module__.startswith("optuna.")
        return type(obj).__qualname__ if is_free else None


def _freeze(sampler: BaseSampler) -> dict[str, bytes]:
    """Return, as bytes, the attributes of a sampler that the code of the user's classes names."""
    kinds = [kind for kind in type(sampler).__mro__ if not kind.__module__.startswith("optuna.")]
    parts = [part for kind in kinds for part in vars(kind).values() if isinstance(part, types.FunctionType)]
    named = {name for part in parts for name in part.__code__.co_names}
    frozen = {}
    for key in vars(sampler).keys() & named:
        with contextlib.suppress(Exception):  # what cannot be pickled is not compared
            _Pickler(buffer := io.BytesIO()).dump(vars(sampler)[key])
            frozen[key] = buffer.getvalue()
    return frozen

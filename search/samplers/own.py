"""Samplers that a study names as `module:Name`: Optuna's others, and the user's own.

Each proposal gets a new object, so that it depends on seed, number and history alone. A sampler that keeps anything
else, in itself or in its module, would propose something else after a resume; it is refused where that can be seen.
"""

import contextlib
import io
import pickle
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler

from trainables.errors import InputError

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
"""Their state may change: each proposal begins with new ones."""
OPTIMIZERS = ("cma:optimizer", "sepcma:optimizer", "cmawm:optimizer")
"""Attributes in which Optuna's CmaEsSampler stores a pickle, in parts."""
PICKLED = {
    *("cmaes._cma.CMA", "cmaes._sepcma.SepCMA", "cmaes._cmawm.CMAwM", "numpy.dtype", "numpy.ndarray"),
    *("numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"),
}
"""What such a pickle may name; another one is a stranger's."""


@contextlib.contextmanager
def watch(name: str, sampler: BaseSampler) -> Iterator[None]:
    """Turn what a sampler raises into a sentence, and refuse it if it changes itself.

    Raises:
        InputError: If it raises something, or has changed one of its attributes.
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
    """Check that what CmaEsSampler would unpickle of a trial is an optimizer: a stranger may have written it.

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
    """Restores optimizers alone."""

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
    """Return as bytes the attributes of a sampler that the code of the user's classes names."""
    kinds = [kind for kind in type(sampler).__mro__ if not kind.__module__.startswith("optuna.")]
    parts = [part for kind in kinds for part in vars(kind).values() if isinstance(part, types.FunctionType)]
    named = {name for part in parts for name in part.__code__.co_names}
    frozen = {}
    for key in vars(sampler).keys() & named:
        with contextlib.suppress(Exception):  # what cannot be pickled is not compared
            _Pickler(buffer := io.BytesIO()).dump(vars(sampler)[key])
            frozen[key] = buffer.getvalue()
    return frozen

"""Samplers that a study names as `module:Name`: Optuna's others, and the user's own.

Each proposal gets a new object, so that it depends on seed, number and history alone. A sampler that keeps anything
else, in itself or in its module, would propose something else after a resume; it is refused where that can be seen.
"""

import contextlib
import inspect
import io
import pickle
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler

from search.config.named import build
from trainables.errors import InputError

WHERE = "search.sampler"
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
"""Their state may change: each proposal begins with new ones."""

OPTIMIZERS = ("cma:optimizer", "sepcma:optimizer", "cmawm:optimizer")
"""Attributes in which Optuna's CmaEsSampler stores a pickle, in parts."""
PICKLED = {
    ("cmaes._cma", "CMA"),
    ("cmaes._sepcma", "SepCMA"),
    ("cmaes._cmawm", "CMAwM"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}
"""What such a pickle may name; another one is a stranger's."""


def build_own(name: str, seed: int, startup: int) -> BaseSampler:
    """Return a sampler for one proposal.

    Args:
        name: `module:Name` of its class.
        seed: Of this proposal.
        startup: Number of random trials before its model proposes.

    Raises:
        InputError: If there is no such class, or its constructor requires more than a study offers.
    """
    offered = {"seed": seed, "n_startup_trials": startup, "warn_independent_sampling": False}
    sampler = build(name, offered, WHERE)
    if not isinstance(sampler, BaseSampler):
        raise InputError(f"{WHERE} = {name!r}: expected a class that derives from optuna.samplers.BaseSampler")
    return sampler


@contextlib.contextmanager
def watch(name: str, sampler: BaseSampler) -> Iterator[None]:
    """Turn what a sampler raises into a sentence, and refuse it if it changes itself.

    Raises:
        InputError: If it raises something, or has changed one of its attributes.
    """
    before = _freeze(sampler)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{WHERE} = {name!r} fails ({type(error).__name__}: {error}): correct it") from error
    after = _freeze(sampler)
    if changed := [key for key in after if before.get(key) != after[key]]:
        raise InputError(
            f"{WHERE} = {name!r} keeps {', '.join(changed)} between proposals, which a resumed study would lack: "
            "store it with study._storage.set_study_system_attr, or compute it from the trials"
        )


class _Pickler(pickle.Pickler):
    """Writes generators and Optuna's objects by the name of their class."""

    def persistent_id(self, obj: Any) -> str | None:
        return type(obj).__qualname__ if isinstance(obj, GENERATORS) or _is_optunas(type(obj)) else None


def _freeze(sampler: BaseSampler) -> dict[str, bytes]:
    """Return as bytes the attributes of a sampler that the code of Optuna's classes does not name."""
    parts = [part for base in type(sampler).__mro__ if _is_optunas(base) for part in vars(base).values()]
    codes = [inspect.unwrap(part).__code__ for part in parts if inspect.isfunction(part)]
    known = {name for code in codes for name in code.co_names}
    frozen = {}
    for key in vars(sampler).keys() - known:
        with contextlib.suppress(Exception):  # what cannot be pickled is not compared
            _Pickler(buffer := io.BytesIO()).dump(vars(sampler)[key])
            frozen[key] = buffer.getvalue()
    return frozen


def _is_optunas(kind: type) -> bool:
    return kind.__module__.startswith("optuna.")


class _Unpickler(pickle.Unpickler):
    """Restores optimizers alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED:
            raise InputError(f"it names {module}.{name}")
        return super().find_class(module, name)


def check_optimizer(noted: Mapping[str, Any], number: int) -> None:
    """Check that what CmaEsSampler would unpickle is an optimizer: a stranger may have written it.

    Raises:
        InputError: If it is not.
    """
    for prefix in OPTIMIZERS:
        found = [key for key in noted if key.startswith(prefix)]  # as Optuna takes them
        try:
            content = bytes.fromhex("".join(noted[f"{prefix}:{part}"] for part in range(len(found))))
            _ = content and _Unpickler(io.BytesIO(content)).load()
        except Exception as error:
            raise InputError(f"trial {number} has no optimizer in {prefix} ({error}): restore the journal") from error

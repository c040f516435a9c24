"""A training function of the user: a generator that yields its metrics at the end of each epoch.

`run.epochs` receives the objects that training changes. At each `yield` their state and that of all random numbers is
pickled for the checkpoint, and both are restored when a training continues. Code between a `yield` and the next epoch
is not repeated then.
"""

import functools
import io
import math
import pickle
import random
import time
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.errors import DISK_FULL, FunctionError, TrainingError
from trainables.parameters import LARGEST, is_storable
from trainables.train import Epoch

END = object()
"""Marks the end of a function."""


class Run:
    """The first argument of a training function."""

    def __init__(
        self, *, seed: int, device: torch.device, max_epochs: int, number: int, resume: Mapping[str, Any] | None = None
    ) -> None:
        self.seed = seed
        """Seed of this trial, with which the global generators of Python, numpy and torch are seeded."""
        self.device = device
        """The GPU that the trial was granted, or the CPU."""
        self.max_epochs = max_epochs
        """Epochs of a trial that is not stopped."""
        self.number = number
        """Number of the trial in its study."""
        self.history: list[dict[str, float]] = list(resume["history"]) if resume else []
        """Metrics of each epoch that has ended."""
        self.epoch = 0
        """Number of the running epoch, from 1; 0 before the first."""
        self._kept: dict[str, Any] | None = None
        self._pickled = resume["pickled"].numpy().tobytes() if resume else None

    def epochs(self, *objects: Any, **named: Any) -> Iterator[int]:
        """Yield the numbers of the remaining epochs; the function ends each epoch with one `yield`.

        Before the first one, the state of the objects and of the random numbers is restored.

        Args:
            objects: All that training changes: model, optimizer, generators, lists and dicts. Those with `state_dict`
                use it; others are pickled, and restored in place.
            named: The same, with names that messages use.

        Raises:
            FunctionError: If an object cannot be restored in place, or an epoch yields nothing.
        """
        if self._kept is not None:
            raise FunctionError("run.epochs was called twice: call it once, with all objects that training changes")
        self._kept = {f"object {place}": kept for place, kept in enumerate(objects, start=1)} | named
        ways = {name: _find_way(kept, name) for name, kept in self._kept.items()}
        if self._pickled is not None:
            states, numbers = _Unpickler(self._pickled, self._kept).load()
            for name, (_, write) in ways.items():
                write(states[name])
            write_random(numbers)
        for number in range(len(self.history) + 1, self.max_epochs + 1):
            self.epoch = number
            yield number
            if len(self.history) < number:
                raise FunctionError(f"epoch {number} ended without a yield: yield its metrics, as a dict")

    def copy_state(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state of a checkpoint, with the random numbers' state as `read_random` gave it."""
        assert self._kept is not None, "an epoch has ended"
        pickled = io.BytesIO()
        try:
            states = {name: _find_way(kept, name)[0]() for name, kept in self._kept.items()}
            _Pickler(pickled, self._kept).dump((states, dict(numbers)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            cure = "give run.epochs only what training changes, without functions, files and locks"
            raise FunctionError(
                f"an object of run.epochs cannot be stored in the checkpoint ({error}): {cure}"
            ) from error
        content = torch.frombuffer(pickled.getbuffer(), dtype=torch.uint8).clone()
        return {"epoch": len(self.history), "history": list(self.history), "pickled": content}


def train_own(
    function: Callable[..., Any], params: Mapping[str, Any], run: Run, *, metric: str | None = None
) -> Iterator[Epoch]:
    """Run a training function, one epoch each time the caller asks; it may end before `run.max_epochs`.

    The random numbers of the function are its own: draws outside of it do not change them.

    Args:
        function: The function.
        params: Its arguments after `run`.
        run: Its first argument.
        metric: Metric that each epoch must yield.

    Raises:
        FunctionError: If the function does not yield a dict of numbers with the metric exactly once in each epoch.
        TrainingError: If it raises an error, or a number is not finite or above 1e300.
    """
    random.seed(run.seed)
    np.random.seed(run.seed % 2**32)  # noqa: NPY002 the function may use it
    torch.manual_seed(run.seed)
    numbers = read_random(run.device)
    yielded = function(run, **params)
    while True:
        started = time.perf_counter()
        write_random(numbers)
        if (metrics := _pull(yielded)) is END:
            return
        numbers = read_random(run.device)
        if run.epoch != len(run.history) + 1:
            cure = "yield once in each turn of `for epoch in run.epochs(...)`"
            raise FunctionError(f"the function yielded outside of an epoch, or twice in epoch {run.epoch}: {cure}")
        found = _check_metrics(metrics, run.epoch, metric)
        run.history.append({**found, "epoch": run.epoch, "seconds": time.perf_counter() - started})
        state = functools.partial(run.copy_state, numbers)
        yield Epoch(number=run.epoch, metrics=dict(run.history[-1]), state=state)


def read_random(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators."""
    numbers = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}  # noqa: NPY002
    return numbers | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def write_random(numbers: Mapping[str, Any]) -> None:
    """Set the states of the global generators, as `read_random` gave them."""
    random.setstate(numbers["python"])
    np.random.set_state(numbers["numpy"])  # noqa: NPY002
    torch.set_rng_state(numbers["torch"])
    if "cuda" in numbers:
        torch.cuda.set_rng_state(numbers["cuda"])


def _pull(yielded: Any) -> Any:
    """Return the next value that the function yields, or END."""
    try:
        return next(yielded, END)
    except (FunctionError, TrainingError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise TrainingError(f"{type(error).__name__}: {error}") from error


def _check_metrics(metrics: Any, epoch: int, metric: str | None) -> dict[str, float]:
    """Return the metrics that an epoch yielded, as plain numbers."""
    if not isinstance(metrics, dict) or not metrics:
        raise FunctionError(f"epoch {epoch} yielded {metrics!r:.80}: yield a dict of numbers, such as {{'loss': 0.5}}")
    if metric is not None and metric not in metrics:
        known = ", ".join(map(str, metrics))
        raise FunctionError(f"epoch {epoch} yielded no {metric}, only {known}: yield it, or set metric to one of them")
    found = {}
    for name, value in metrics.items():
        if name in ("epoch", "seconds"):
            raise FunctionError(f"epoch {epoch} yielded {name}, which the search measures itself: use another name")
        number = (
            value.item()
            if isinstance(value, np.generic | np.ndarray | Tensor) and math.prod(value.shape) == 1
            else value
        )
        if isinstance(number, bool) or not isinstance(number, Real):
            raise FunctionError(f"epoch {epoch} yielded {name} = {number!r:.80}: yield one number, such as 0.5")
        if not is_storable(float(number)):
            limit = f", above the limit of {LARGEST:g}" if math.isfinite(number) else ""
            raise TrainingError(f"{name} is {number} in epoch {epoch}{limit}")
        found[str(name)] = float(number)
    return found


def _find_way(kept: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:  # noqa: PLR0911 one a kind
    """Return two functions: one reads the state of an object, the other writes a state into it."""
    match kept:
        case _ if hasattr(kept, "state_dict") and hasattr(kept, "load_state_dict"):
            return kept.state_dict, kept.load_state_dict
        case dict() | set():
            return kept.copy, functools.partial(_refill, kept)
        case list():
            return kept.copy, functools.partial(kept.__setitem__, slice(None))
        case np.ndarray():
            return kept.copy, functools.partial(np.copyto, kept)
        case Tensor():
            return kept.detach().clone, kept.detach().copy_
        case np.random.Generator():
            return lambda: kept.bit_generator.state, functools.partial(setattr, kept.bit_generator, "state")
        case torch.Generator():
            return kept.get_state, kept.set_state
        case _ if hasattr(kept, "__setstate__"):
            return kept.__getstate__, kept.__setstate__
        case _ if hasattr(kept, "__dict__"):
            return vars(kept).copy, functools.partial(_refill, vars(kept))
    kind = type(kept).__name__
    raise FunctionError(f"run.epochs cannot restore {name}, a value of type {kind}: put it into a dict or a list")


def _refill(kept: Any, state: Any) -> None:
    """Replace the content of a dict or a set."""
    kept.clear()
    kept.update(state)


class _Pickler(pickle.Pickler):
    """Writes only the name of a kept object where another object refers to it, so that it stays one object."""

    def __init__(self, file: io.BytesIO, kept: Mapping[str, Any]) -> None:
        super().__init__(file)
        self._names = {id(each): name for name, each in kept.items()}

    def persistent_id(self, found: Any) -> str | None:
        return self._names.get(id(found))


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote: a checkpoint's key has shown that a search of this user wrote it."""

    def __init__(self, content: bytes, kept: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(content))
        self._kept = kept

    def persistent_load(self, name: str) -> Any:
        return self._kept[name]

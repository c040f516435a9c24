"""Other libraries as arms of `benchmarks.replay`: each decides by its own public interface, as it ships.

Only Optuna is a dependency of this project; `require_installed` says how the others are installed.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from search.record.trial import Trial
from trainables.errors import InputError

Distributions = Mapping[str, BaseDistribution]


class Peer(Protocol):
    """The decisions of a library."""

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """Return number and parameters of a training; a number that was returned before continues where it paused."""

    def report(self, number: int, metrics: Mapping[str, float]) -> bool:
        """Take in an epoch of a training; return whether the training stops or pauses after it."""


class PeerStudy:
    """A peer with a budget, as the replay drives a `search.study.Study`."""

    def __init__(self, peer: Peer, budget: int) -> None:
        self.trials: dict[int, Trial] = {}
        self._peer = peer
        self._left = budget

    @property
    def halt_reason(self) -> str | None:
        """Why the search ends, or None."""
        return None if self._left else "its epochs are spent"

    def ask(self) -> Trial | None:
        """See Study."""
        if self.halt_reason:
            return None
        number, params = self._peer.ask()
        return self.trials.setdefault(number, Trial(number=number, architecture="peer", params=dict(params)))

    def report(self, number: int, metrics: Mapping[str, float], device: str) -> bool:  # noqa: ARG002 Study's names
        """See Study."""
        self._left -= 1
        self.trials[number].epochs.append(dict(metrics))
        return self._peer.report(number, metrics)


def _open_optuna(pruner: str, distributions: Distributions, *, seed: int, max_epochs: int) -> Peer:
    from benchmarks.peers.optuna_replayed import OptunaSearch

    return OptunaSearch(pruner, distributions, seed=seed, max_epochs=max_epochs)


def _open_syne(scheduler: str, distributions: Distributions, *, seed: int, max_epochs: int) -> Peer:
    from benchmarks.peers.syne_replayed import SyneSearch

    return SyneSearch(scheduler, distributions, seed=seed, max_epochs=max_epochs)


def _open_neps(algorithm: str, distributions: Distributions, *, seed: int, max_epochs: int) -> Peer:
    from benchmarks.peers.neps_replayed import NepsSearch

    return NepsSearch(algorithm, distributions, seed=seed, max_epochs=max_epochs)


PEERS: dict[str, tuple[Callable[..., Peer], str]] = {
    "optuna + median": (_open_optuna, "median"),
    "optuna + successive halving": (_open_optuna, "successive halving"),
    "optuna + hyperband": (_open_optuna, "hyperband"),
    "syne asha": (_open_syne, "asha"),
    "syne bohb": (_open_syne, "bohb"),
    "syne ashabore": (_open_syne, "ashabore"),
    "syne ashacqr": (_open_syne, "ashacqr"),
    "neps hyperband": (_open_neps, "hyperband"),
    "neps priorband": (_open_neps, "priorband"),
}
"""Arm -> function that opens the search, and name of the library's scheduler or pruner."""
PACKAGES = {
    "syne": (("syne_tune", "huggingface_hub"), "pip install 'syne-tune==0.16.*' huggingface_hub"),
    "neps": (
        ("neps",),
        "pip install 'neural-pipeline-search==0.17.*', by the lines in benchmarks/peers/neps_replayed.py",
    ),
}
"""Packages that the arms of a peer import and that this project does not depend on, and how to install them."""


def require_installed(arms: Sequence[str]) -> None:
    """Check that the library of each arm is installed.

    Raises:
        InputError: If one is not, with the command that installs it.
    """
    for arm in arms:
        names, cure = PACKAGES.get(arm.split()[0], ((), ""))
        for name in names:
            if find_spec(name) is None:
                raise InputError(f"the arm '{arm}' needs the package {name}, which is not installed: {cure}")


def open_peer(arm: str, distributions: Distributions, *, seed: int, max_epochs: int) -> Peer:
    """Return a new search of a peer.

    Args:
        arm: One of `PEERS`.
        distributions: What is searched.
        seed: Of all that the search draws.
        max_epochs: Of a training that is not stopped.
    """
    opening, name = PEERS[arm]
    return opening(name, distributions, seed=seed, max_epochs=max_epochs)

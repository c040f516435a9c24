"""Optuna as it ships: `create_study` with its default sampler and one of its pruners, through `ask` and `tell`.

Steps count from 0 as in the examples of both pruners; from 1 both gave worse results (LOG.md, 2026-11-29). For a trial
that reaches its last epoch without being pruned, `tell` gets its last value. The sampler is seeded by its argument,
Hyperband's choice of a bracket by the study's name.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import Trial, TrialState

from search.record.metric import ACCURACY


def _build_pruner(name: str, max_epochs: int) -> BasePruner:
    if name == "hyperband":
        return HyperbandPruner(max_resource=max_epochs)  # as in its example; "auto" would wait for a whole trial
    return {"median": MedianPruner, "successive halving": SuccessiveHalvingPruner}[name]()


class OptunaSearch:
    """See `benchmarks.peers.arms.Peer`."""

    def __init__(
        self, pruner: str, distributions: Mapping[str, BaseDistribution], *, seed: int, max_epochs: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            study_name=f"replay-{seed}",
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=_build_pruner(pruner, max_epochs),
        )
        self._distributions = dict(distributions)
        self._max_epochs = max_epochs
        self._trials: dict[int, Trial] = {}

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """See Peer."""
        trial = self._study.ask(self._distributions)
        self._trials[trial.number] = trial
        return trial.number, trial.params

    def report(self, number: int, metrics: Mapping[str, float]) -> bool:
        """See Peer."""
        trial, value = self._trials[number], metrics[ACCURACY]
        trial.report(value, int(metrics["epoch"]) - 1)
        if trial.should_prune():
            self._study.tell(trial, state=TrialState.PRUNED)
            return True
        if metrics["epoch"] < self._max_epochs:
            return False
        self._study.tell(trial, value)
        return True

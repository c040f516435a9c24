"""Syne Tune's schedulers under the simulated clock, called as its own Tuner calls them.

Its ASHA is of the stopping type; its first rung is epoch 1, each further rung is three times as late. It also stops
trials that reach `max_t`, so the Tuner never calls `on_trial_complete`, and this module does not call it either. Some
of its searchers draw from NumPy's global generator, whatever their seed.
"""

import datetime
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xgboost  # noqa: F401 before threads are limited, which applies only to libraries that are loaded
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform
from syne_tune.optimizer.baselines import ASHA, ASHABORE, ASHACQR, BOHB
from syne_tune.optimizer.scheduler import SchedulerDecision
from threadpoolctl import threadpool_limits

from search.record.metric import ACCURACY

SCHEDULERS: dict[str, Callable[..., Any]] = {"asha": ASHA, "bohb": BOHB, "ashabore": ASHABORE, "ashacqr": ASHACQR}
NOT_WHEN = datetime.datetime(2000, 1, 1)
"""Time of a trial's creation, which no scheduler here reads."""


class SyneSearch:
    """See `benchmarks.peers.arms.Peer`."""

    def __init__(
        self, scheduler: str, distributions: Mapping[str, BaseDistribution], *, seed: int, max_epochs: int
    ) -> None:
        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        np.random.seed(seed)  # noqa: NPY002 what Syne Tune draws from
        threadpool_limits(1)  # equal figures on any number of cores
        space = {name: _convert(distribution) for name, distribution in distributions.items()}
        self._scheduler = SCHEDULERS[scheduler](
            space, metric=ACCURACY, time_attr="epoch", max_t=max_epochs, do_minimize=False, random_seed=seed
        )
        self._trials: list[Trial] = []

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """See Peer."""
        config = self._scheduler.suggest().config
        trial = Trial(trial_id=len(self._trials), config=config, creation_time=NOT_WHEN)
        self._trials.append(trial)
        self._scheduler.on_trial_add(trial)
        return trial.trial_id, config

    def report(self, number: int, metrics: Mapping[str, float]) -> bool:
        """See Peer."""
        trial = self._trials[number]
        if self._scheduler.on_trial_result(trial, dict(metrics)) != SchedulerDecision.STOP:
            return False
        self._scheduler.on_trial_remove(trial)
        return True


def _convert(distribution: BaseDistribution) -> Any:
    """Return a distribution in Syne Tune's form."""
    match distribution:
        case CategoricalDistribution():
            return choice(list(distribution.choices))
        case FloatDistribution():
            return (loguniform if distribution.log else uniform)(distribution.low, distribution.high)
        case IntDistribution():
            return (lograndint if distribution.log else randint)(distribution.low, distribution.high)
    raise ValueError(f"Syne Tune has no form of {distribution}.")

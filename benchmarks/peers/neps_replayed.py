"""NePS under the simulated clock, by its `AskAndTell`.

    python3 -m venv build/neps
    echo $PWD > build/neps/lib/python3.11/site-packages/project.pth
    echo $PWD/.venv/lib/python3.11/site-packages >> build/neps/lib/python3.11/site-packages/project.pth
    build/neps/bin/pip install 'neural-pipeline-search==0.17.*'
    build/neps/bin/python -m benchmarks.replay --arms "neps hyperband" "neps priorband"

This keeps pandas 2, which NePS needs, out of the project's environment. Its brackets promote trainings: an evaluation
trains to a rung and pauses, and a later evaluation continues the training from there, which costs only the further
epochs. No priors are given, so PriorBand draws uniformly instead. NePS takes no seed and draws from the global
generators.
"""

import logging
import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.record.metric import ACCURACY

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # warnings of libraries that it imports
    import neps

ALGORITHMS = {"hyperband": neps.algorithms.hyperband, "priorband": neps.algorithms.priorband}
FIDELITY = "epochs"


class NepsSearch:
    """See `benchmarks.peers.arms.Peer`."""

    def __init__(
        self, algorithm: str, distributions: Mapping[str, BaseDistribution], *, seed: int, max_epochs: int
    ) -> None:
        logging.getLogger("neps").setLevel(logging.ERROR)
        np.random.seed(seed)  # noqa: NPY002 what NePS draws from
        random.seed(seed)
        torch.manual_seed(seed)
        space = {name: _convert(distribution) for name, distribution in distributions.items()}
        fidelity = neps.HPOInteger(1, max_epochs, is_fidelity=True)
        self._optimizer = neps.AskAndTell(ALGORITHMS[algorithm](neps.SearchSpace({**space, FIDELITY: fidelity})))
        self._numbers: dict[str, int] = {}  # evaluation -> training
        self._running: dict[int, neps.Trial] = {}

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """See Peer."""
        evaluation = self._optimizer.ask()
        before = evaluation.metadata.previous_trial_id
        number = len(set(self._numbers.values())) if before is None else self._numbers[before]
        self._numbers[evaluation.id] = number
        self._running[number] = evaluation
        return number, evaluation.config

    def report(self, number: int, metrics: Mapping[str, float]) -> bool:
        """See Peer."""
        evaluation = self._running[number]
        if metrics["epoch"] < evaluation.config[FIDELITY]:
            return False
        self._optimizer.tell(evaluation, 1.0 - metrics[ACCURACY])
        return True


def _convert(distribution: BaseDistribution) -> Any:
    """Return a distribution in NePS's form."""
    match distribution:
        case CategoricalDistribution():
            return neps.HPOCategorical(list(distribution.choices))
        case FloatDistribution():
            return neps.HPOFloat(distribution.low, distribution.high, log=distribution.log)
        case IntDistribution():
            return neps.HPOInteger(distribution.low, distribution.high, log=distribution.log)
    raise ValueError(f"NePS has no form of {distribution}.")

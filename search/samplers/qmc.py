"""Quasi-random sampling: points that cover the space evenly."""

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import QMCSampler, RandomSampler


class QuasiRandomSampler(QMCSampler):
    """Optuna's QMC sampler; the trial's number is its index in the sequence, so no counter is stored."""

    def __init__(self, sequence_seed: int, independent_seed: int, number: int) -> None:
        independent = RandomSampler(seed=independent_seed)
        super().__init__(scramble=True, seed=sequence_seed, independent_sampler=independent)
        self._warn_independent_sampling = False
        self._number = number

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:  # noqa: ARG002 Optuna's
        return self._number

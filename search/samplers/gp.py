"""A Gaussian process over parameters and rungs: it proposes the point with the largest expected improvement.

A row is the value of a trial at a rung. Its value becomes a rank, and the rank a normal score, so that the unit of the
metric and a few very bad trials do not matter. The kernel is Matern 5/2 with one length for each parameter, times
rho ** (difference of rungs), plus noise. The improvement is that at the last rung.

Sources: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, eq. 4.17 (kernel), 5.9 (gradient of the
likelihood) and algorithm 2.1 (prediction); Jones et al. 1998, Efficient Global Optimization, eq. 15 (expected
improvement). Constants: LOG.md, 2026-11-29.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy import linalg, optimize, special
from scipy.spatial.distance import cdist, pdist
from threadpoolctl import ThreadpoolController

from search.config.conditions import Conditions
from search.samplers.history import History
from search.samplers.points import Points
from search.samplers.values import take_highest

Array = NDArray[np.float64]
MOST_ROWS, MOST_FITTED, MOST_RUNNING = 220, 120, 64
"""Largest numbers of rows, of rows to which the kernel is fitted, and of running trials: they bound the cost."""
SHARE_BEST = 2 / 3
"""Fraction of the rows that are the best ones; the others are drawn."""
NUM_PARENTS = 5
LENGTH, DECAY, NOISE = 1.0, 0.3, 0.1
"""Medians of the log-normal priors: of a length, times the square root of the number of parameters; of -log(rho); of
the variance of the noise, that of the signal being 1."""
MOST_STEPS = 25
"""Iterations of the search for the most likely kernel."""


class Rows(NamedTuple):
    """The values of trials at rungs."""

    points: Array
    """(rows, coordinates)"""
    rungs: Array
    """(rows,): 0, 1, ..."""
    scores: Array
    """(rows,)"""


class Kernel(NamedTuple):
    """The fitted parameters of the kernel."""

    lengths: Array
    """(coordinates,)"""
    decay: float
    """-log(rho)"""
    noise: float
    """Its variance."""


class GpRungsSampler(RandomSampler):
    """Proposes all parameters together; at random while fewer than `startup` trials have ended.

    Running trials count with their expected values, so that little improvement is expected near them.
    """

    def __init__(self, seed: int, startup: int, conditions: Conditions) -> None:
        super().__init__(seed=seed)
        self._startup = startup
        self._conditions = conditions

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Propose a value for each parameter of the space; none while the number of ended trials is below startup."""
        assert isinstance(study._storage, History)
        trials = [known for known in study._storage.trials if known.state is not TrialState.FAIL and known is not trial]
        values = study._storage.values.compare([known.number for known in trials])
        num_ended = sum(known.state.is_finished() for known in trials)
        if not search_space or num_ended < self._startup or np.isnan(values).all():
            return {}
        has_failed = [known.state.is_finished() and not known.intermediate_values for known in trials]
        values[has_failed, -1] = -np.inf  # they lacked memory, so no improvement is expected near them
        with _load_controller().limit(limits=1, user_api="blas"):  # the same sums on any number of cores
            return self._propose(search_space, trials, values)

    def _propose(
        self, distributions: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial], values: Array
    ) -> dict[str, Any]:
        space, generator = Points(distributions, self._conditions), self._rng.rng
        (places, rungs), scores = select_rows(values, generator)
        seen = Rows(space.embed(space.read([trials[place] for place in places])), rungs, scores)
        kernel = fit(Rows(*(part[:MOST_FITTED] for part in seen)), space.owners)
        best = np.argsort(-take_highest(values), kind="stable")[:NUM_PARENTS]
        parents = space.read([trials[place] for place in best])
        running = [known for known in trials if known.state is TrialState.RUNNING][-MOST_RUNNING:]
        candidates = space.draw(parents, generator)
        asked = space.embed(np.concatenate([parents, candidates]))
        pending = space.embed(space.read(running))
        means, deviations = predict(kernel, seen, pending, asked, rung=values.shape[1] - 1)
        promise = expect_improvement(means, deviations, means[: len(parents)].max())
        return space.write(candidates[np.argmax(promise[len(parents) :])])


def select_rows(values: Array, generator: np.random.RandomState) -> tuple[tuple[Array, Array], Array]:
    """Return the rows to learn from, in random order, and their normal scores.

    Args:
        values: (trials, rungs), NaN where a trial did not reach a rung.
        generator: Draws the rows that are not among the best.
    """
    places, rungs = np.nonzero(~np.isnan(values))
    _, which, counts = np.unique(values[places, rungs], return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - counts / 2  # the mean rank of equal values
    scores = special.ndtri(ranks / len(places))[which]
    order = np.argsort(-scores, kind="stable")
    num_best = round(SHARE_BEST * MOST_ROWS)
    others = generator.permutation(order[num_best:])[: MOST_ROWS - num_best]
    kept = generator.permutation(np.concatenate([order[:num_best], others]))
    return (places[kept], rungs[kept]), scores[kept]


def fit(rows: Rows, owners: NDArray[np.intp]) -> Kernel:
    """Return the most likely kernel under the priors; equal rows give an equal kernel.

    Args:
        rows: Rows to learn from.
        owners: (coordinates,): the parameter of each coordinate; all coordinates of a parameter have one length.
    """
    num = int(owners.max()) + 1
    squares = np.stack([pdist(rows.points[:, owners == owner], "sqeuclidean") for owner in range(num)])
    gaps = pdist(rows.rungs[:, None], "cityblock")
    start = np.log([*[LENGTH * np.sqrt(num)] * num, DECAY, NOISE])
    found = optimize.minimize(
        compute_negative_log_posterior,
        start,
        args=(squares, gaps, rows.scores, start),
        jac=True,
        method="L-BFGS-B",
        bounds=[(middle - 5.0, middle + 5.0) for middle in start],
        options={"maxiter": MOST_STEPS},
    )
    chosen = np.exp(found.x)
    return Kernel(chosen[:num][owners], float(chosen[-2]), float(chosen[-1]))


def compute_negative_log_posterior(
    logs: Array, squares: Array, gaps: Array, scores: Array, middles: Array
) -> tuple[float, Array]:
    """Return minus the logarithm of likelihood and priors, except for a constant, and its gradient.

    Args:
        logs: (parameters + 2,): logarithms of lengths, decay and noise.
        squares: (parameters, pairs): squared distances of all pairs of rows, as of `pdist`.
        gaps: (pairs,): their differences in rungs.
        scores: (rows,)
        middles: Means of the priors of `logs`; the deviations are 1.
    """
    weights, decay, noise = np.exp(-2.0 * logs[:-2]), np.exp(logs[-2]), np.exp(logs[-1])
    above, below = np.triu_indices(len(scores), 1)
    distances = np.sqrt(5.0 * (weights @ squares))
    fall = np.exp(-distances - decay * gaps)
    covers = (1.0 + distances + distances**2 / 3.0) * fall
    matrix = np.eye(len(scores)) * (1.0 + noise)
    matrix[above, below] = covers
    factor = linalg.cholesky(matrix, check_finite=False)
    inverse = linalg.lapack.dpotri(factor)[0]  # type: ignore[attr-defined]  # SciPy has no types for it
    inverse = np.triu(inverse) + np.triu(inverse, 1).T
    solved = inverse @ scores
    misfit = 0.5 * scores @ solved + np.log(np.diag(factor)).sum() + 0.5 * ((logs - middles) ** 2).sum()
    slopes = inverse[above, below] - solved[above] * solved[below]
    gradient = logs - middles
    gradient[:-2] += 5.0 / 3.0 * weights * (squares @ (slopes * (1.0 + distances) * fall))
    gradient[-2] -= decay * (gaps * slopes) @ covers
    gradient[-1] += 0.5 * noise * (np.trace(inverse) - solved @ solved)
    return float(misfit), gradient


def predict(kernel: Kernel, seen: Rows, pending: Array, asked: Array, rung: int) -> tuple[Array, Array]:
    """Return mean and deviation of each asked point at a rung, if the pending points have their expected values.

    Args:
        kernel: The kernel.
        seen: The known rows.
        pending: (running trials, coordinates)
        asked: (points, coordinates)
        rung: The rung of the pending and of the asked points.
    """
    num = len(seen.scores)
    points = np.concatenate([seen.points, pending])
    rungs = np.concatenate([seen.rungs, np.full(len(pending), rung)])
    matrix = compute_covariance(kernel, points, points, np.abs(rungs[:, None] - rungs)) + kernel.noise * np.eye(
        len(points)
    )
    solved = linalg.solve(matrix[:num, :num], seen.scores, assume_a="pos", check_finite=False)
    covers = compute_covariance(kernel, asked, points, np.abs(rung - rungs))
    factor = linalg.cholesky(matrix, lower=True, check_finite=False)
    explained = linalg.solve_triangular(factor, covers.T, lower=True, check_finite=False)
    return covers[:, :num] @ solved, np.sqrt(np.maximum(1.0 - (explained**2).sum(axis=0), 1e-12))


def compute_covariance(kernel: Kernel, one: Array, other: Array, gaps: Array) -> Array:
    """Return the covariance of each point in `one` with each point in `other`, without noise."""
    squares = cdist(one / kernel.lengths, other / kernel.lengths, "sqeuclidean")
    distances = np.sqrt(5.0 * squares)
    covers: Array = (1.0 + distances + distances**2 / 3.0) * np.exp(-distances - kernel.decay * gaps)
    return covers


def expect_improvement(means: Array, deviations: Array, best: float) -> Array:
    """Return the expected improvement of each point over the best value."""
    gaps = (means - best) / deviations
    density = np.exp(-(gaps**2) / 2.0) / np.sqrt(2.0 * np.pi)
    promise: Array = deviations * (gaps * special.ndtr(gaps) + density)
    return promise


@functools.cache
def _load_controller() -> ThreadpoolController:
    return ThreadpoolController()

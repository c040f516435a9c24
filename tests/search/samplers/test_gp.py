import numpy as np
import pytest
from scipy import integrate, optimize, stats
from scipy.spatial.distance import pdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from search.samplers import gp
from search.samplers.gp import (
    Kernel,
    Rows,
    compute_negative_log_posterior,
    expect_improvement,
    fit,
    predict,
    select_rows,
)

OWNERS = np.array([0, 0, 1, 2, 2, 2])
LENGTHS = np.array([0.7, 1.3, 0.4])


def draw_rows(num=40, seed=0):
    generator = np.random.default_rng(seed)
    points = generator.random((num, len(OWNERS)))
    rungs = generator.integers(0, 3, num).astype(float)
    return Rows(points, rungs, np.sin(5.0 * points[:, 2]) + 0.1 * generator.normal(size=num))


def test_the_gradient_of_the_misfit_is_that_of_its_differences():
    rows = draw_rows()
    squares = np.stack([pdist(rows.points[:, owner == OWNERS], "sqeuclidean") for owner in range(3)])
    given = squares, pdist(rows.rungs[:, None], "cityblock"), rows.scores, np.zeros(5)
    start = np.log([*LENGTHS, 0.5, 0.2])
    error = optimize.check_grad(
        lambda logs: compute_negative_log_posterior(logs, *given)[0],
        lambda logs: compute_negative_log_posterior(logs, *given)[1],
        start,
    )
    assert error < 1e-4


def test_the_misfit_and_the_prediction_at_one_rung_are_those_of_scikit_learn():
    rows = draw_rows()._replace(rungs=np.zeros(40))
    peer = GaussianProcessRegressor(Matern(LENGTHS[OWNERS], nu=2.5), alpha=0.2, optimizer=None)
    peer.fit(rows.points, rows.scores)
    asked = np.random.default_rng(1).random((7, len(OWNERS)))
    means, deviations = predict(Kernel(LENGTHS[OWNERS], 0.5, 0.2), rows, asked[:0], asked, 0)
    expected = peer.predict(asked, return_std=True)
    assert means == pytest.approx(expected[0])
    assert deviations == pytest.approx(expected[1])
    squares = np.stack([pdist(rows.points[:, owner == OWNERS], "sqeuclidean") for owner in range(3)])
    logs = np.log([*LENGTHS, 0.5, 0.2])
    misfit, _ = compute_negative_log_posterior(logs, squares, np.zeros(squares.shape[1]), rows.scores, logs)
    assert misfit == pytest.approx(-peer.log_marginal_likelihood_value_ - 20.0 * np.log(2.0 * np.pi))


def test_the_fit_finds_the_parameter_that_matters():
    lengths = fit(draw_rows(), OWNERS).lengths
    assert lengths[2] < 0.5 * min(lengths[0], lengths[3])
    assert lengths[3] == lengths[4] == lengths[5]


def test_the_fit_of_equal_rows_is_equal():
    one, other = fit(draw_rows(), OWNERS), fit(draw_rows(), OWNERS)
    assert np.array_equal(one.lengths, other.lengths)
    assert one[1:] == other[1:]


def test_a_value_at_a_distant_rung_counts_less():
    kernel = Kernel(np.ones(1), 0.5, 0.01)
    rows = Rows(np.zeros((1, 1)), np.zeros(1), np.ones(1))
    near, far = (predict(kernel, rows, np.zeros((0, 1)), np.zeros((1, 1)), rung) for rung in (0, 2))
    assert far[0][0] == pytest.approx(np.exp(-1.0) * near[0][0])
    assert far[1][0] > near[1][0]


def test_a_pending_point_makes_its_neighbourhood_certain_and_leaves_the_means():
    rows, asked = draw_rows(), np.random.default_rng(1).random((5, len(OWNERS)))
    kernel = Kernel(LENGTHS[OWNERS], 0.5, 0.2)
    before = predict(kernel, rows, asked[:0], asked, 2)
    after = predict(kernel, rows, asked[:1], asked, 2)
    assert after[0] == pytest.approx(before[0])
    assert after[1][0] < 0.8 * before[1][0]


def test_the_expected_improvement_is_its_integral():
    def integrate_one(mean, deviation, best):
        return integrate.quad(lambda x: max(x - best, 0.0) * stats.norm.pdf(x, mean, deviation), best, best + 20.0)[0]

    means, deviations = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.5, 2.0])
    expected = [integrate_one(*known, 0.3) for known in zip(means, deviations, strict=True)]
    assert expect_improvement(means, deviations, 0.3) == pytest.approx(expected, rel=1e-6)


def test_scores_are_those_of_ranks_and_equal_values_have_equal_ones():
    values = np.array([[0.1, 0.3], [1e6, np.nan], [0.3, np.nan], [np.nan, np.nan]])
    (places, rungs), scores = select_rows(values, np.random.RandomState(0))
    found = {(int(place), int(rung)): score for place, rung, score in zip(places, rungs, scores, strict=True)}
    assert found.keys() == {(0, 0), (0, 1), (1, 0), (2, 0)}
    assert found[0, 1] == found[2, 0] == pytest.approx(0.0)
    assert found[1, 0] == -found[0, 0] == pytest.approx(stats.norm.ppf(7 / 8))


def test_of_many_rows_the_best_two_thirds_are_kept_and_the_others_drawn(monkeypatch):
    monkeypatch.setattr(gp, "MOST_ROWS", 30)
    values = np.random.default_rng(0).permutation(100).astype(float)[:, None]
    kept = [set(values[select_rows(values, np.random.RandomState(seed))[0][0], 0]) for seed in (0, 1)]
    assert all(len(each) == 30 for each in kept)
    assert set(range(80, 100)) <= kept[0] & kept[1]
    assert kept[0] != kept[1]

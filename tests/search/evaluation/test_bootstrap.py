import numpy as np
import pytest

from search.evaluation.bootstrap import NUM_AT_ONCE, NUM_RESAMPLES, bound, resample
from search.evaluation.statistics import measure


def draw(num, seed=0, spread=2.0):
    """Return labels and plausible probabilities of label 1."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=num, dtype=np.uint8)
    return labels, (1 / (1 + np.exp(-generator.normal(5.0 * labels - 2.5, spread)))).astype(np.float32)


def draw_images(labels):
    """Return the images of the first resamples (NUM_AT_ONCE, M)."""
    generator = np.random.default_rng(0)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    return np.hstack([generator.choice(own, size=(NUM_AT_ONCE, len(own))) for own in classes])


@pytest.mark.parametrize("levels", [None, 7, 1], ids=["no ties", "many ties", "two places"])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0], ids=["a half", "high", "none is positive"])
def test_resampling_equals_scikit_learn_on_the_images_that_were_drawn(levels, threshold):
    labels, probabilities = draw(50, spread=4.0)
    if levels:
        probabilities = np.round(probabilities * levels) / np.float32(levels)
    found = resample(labels, [(probabilities, threshold)])
    wanted = [measure(labels[drawn], probabilities[drawn], threshold) for drawn in draw_images(labels)]
    assert set(found) == set(wanted[0]) - {"ece"}
    for name, values in found.items():
        np.testing.assert_allclose(values[:NUM_AT_ONCE], [each[name] for each in wanted], rtol=1e-6)


def test_resampled_figures_scatter_around_the_true_ones_as_theory_says():
    labels, probabilities = draw(400)
    found = resample(labels, [(probabilities, 0.5)])
    true = measure(labels, probabilities, 0.5)
    for name, values in found.items():
        assert values.shape == (NUM_RESAMPLES,)
        assert bound(values).low < true[name] < bound(values).high
    accuracy = true["accuracy"]
    assert found["accuracy"].std() == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 400), rel=0.1)


def test_the_mean_over_seeds_is_resampled_on_the_same_images_in_each_call():
    labels, first = draw(100)
    _, second = draw(100, spread=4.0)
    both = resample(labels, [(first, 0.5), (second, 0.5)])
    single = [resample(labels, [(one, 0.5)]) for one in (first, second)]
    for name in both:
        np.testing.assert_allclose(both[name], (single[0][name] + single[1][name]) / 2)


def test_both_classes_are_in_every_draw_even_of_few_images():
    labels = np.array([0, 1, 1], np.uint8)
    found = resample(labels, [(np.array([0.2, 0.7, 0.9], np.float32), 0.5)])
    assert set(found["auroc"]) == {1.0}


def test_a_model_that_is_never_wrong_here_has_no_interval():
    labels = np.r_[np.zeros(20), np.ones(20)].astype(np.uint8)
    for values in resample(labels, [(labels.astype(np.float32), 0.5)]).values():
        assert np.isnan([bound(values).low, bound(values).high]).all()


def test_a_model_that_answers_each_image_alike_has_no_interval():
    labels = np.r_[np.zeros(33), np.ones(40)].astype(np.uint8)
    for values in resample(labels, [(np.full(73, 0.7, np.float32), 0.5)]).values():
        assert np.isnan([bound(values).low, bound(values).high]).all()

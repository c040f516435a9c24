import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics

from search.config.yaml import read_yaml, write_yaml
from search.evaluation.statistics import (
    call_positive,
    choose_threshold,
    compare_pair,
    score,
)
from trainables.metrics import to_probabilities

TINY = np.nextafter(np.float32(0), np.float32(1))
LARGEST = np.nextafter(np.float32(1), np.float32(0))


def draw(num, seed=0, spread=2.0):
    """Return labels and plausible logits."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=num, dtype=np.uint8)
    return labels, generator.normal(5.0 * labels - 2.5, spread).astype(np.float32)


def squash(logits):
    return to_probabilities(torch.from_numpy(logits)).numpy()


def stretch(probabilities):
    """Return logits of probabilities; they are finite for 0 and 1 too."""
    return np.clip(special.logit(probabilities), -200, 200).astype(np.float32)


def expand(tn, fp, fn, tp):
    """Return labels and logits that make this confusion matrix, REAL positive."""
    labels = np.repeat([0, 0, 1, 1], [tn, fp, fn, tp]).astype(np.uint8)
    return labels, np.repeat([-2.0, 2.0, -2.0, 2.0], [tn, fp, fn, tp]).astype(np.float32)


@pytest.mark.parametrize(
    ("confusion", "precision", "recall", "f1", "accuracy"),
    [
        ((9428, 572, 458, 9542), 0.9434, 0.9542, 0.9488, 0.9485),
        ((9892, 108, 694, 9306), 0.9885, 0.9306, 0.9587, 0.9599),
    ],
)
def test_table_1_of_the_paper_follows_from_its_confusion_matrices(confusion, precision, recall, f1, accuracy):
    tn, fp, fn, tp = confusion
    scored = score(*expand(*confusion), 0.5)
    assert scored["confusion"] == ((tn, fp), (fn, tp))
    found = [round(scored["metrics"][name], 4) for name in ("precision", "recall", "f1", "accuracy")]
    assert found == [precision, recall, f1, accuracy]


def test_the_figures_of_fake_are_those_of_swapped_classes():
    labels, logits = draw(200)
    swapped = score(1 - labels, -logits, 0.5)["metrics"]
    found = score(labels, logits, 0.5)["metrics"]
    for name in ("precision", "recall", "f1"):
        assert found[f"{name}_fake"] == pytest.approx(swapped[name])


def test_a_model_that_says_how_sure_it_is_has_no_calibration_error():
    labels = np.repeat([0, 1, 0, 1], [80, 20, 30, 70]).astype(np.uint8)
    found = score(labels, stretch(np.repeat([0.2, 0.7], [100, 100])), 0.5)["metrics"]
    assert found["ece"] == pytest.approx(0.0, abs=1e-6)
    assert score(labels, stretch(np.ones(200)), 0.5)["metrics"]["ece"] == pytest.approx(0.55)


def test_the_surest_answers_share_a_bin_with_the_nearly_sure_ones():
    labels = np.r_[np.zeros(5), np.ones(95)].astype(np.uint8)
    assert score(labels, stretch(np.r_[np.ones(50), np.full(50, 0.97)]), 0.5)["metrics"]["ece"] == pytest.approx(
        0.035, abs=1e-6
    )


def test_the_threshold_moves_which_images_are_called_real_and_nothing_else():
    labels, logits = draw(200)
    low, high = (score(labels, logits, threshold)["metrics"] for threshold in (0.1, 0.9))
    assert low["recall"] > high["recall"]
    assert {name: low[name] for name in ("auroc", "brier", "loss")} == {
        name: high[name] for name in ("auroc", "brier", "loss")
    }


def test_the_loss_is_that_of_the_logits_also_where_a_probability_is_rounded_to_0_or_1():
    labels, logits = np.array([0, 1, 1], np.uint8), np.array([40.0, 40.0, -200.0], np.float32)
    assert squash(logits).tolist() == [1.0, 1.0, 0.0]
    assert score(labels, logits, 0.5)["metrics"]["loss"] == pytest.approx((40 + 0 + 200) / 3)
    labels, logits = draw(200)
    expected = metrics.log_loss(labels, special.expit(logits.astype(np.float64)))
    assert score(labels, logits, 0.5)["metrics"]["loss"] == pytest.approx(expected)


def count_right(labels, probabilities, threshold):
    return int((call_positive(probabilities, threshold) == (labels == 1)).sum())


def check_choice(labels, probabilities):
    """Compare a chosen threshold with one in every gap between two neighbouring probabilities, and outside of them."""
    chosen = choose_threshold(labels, probabilities)
    assert chosen == float(np.float32(chosen))
    rivals = [-1.0, *np.unique(probabilities)]
    assert count_right(labels, probabilities, chosen) == max(count_right(labels, probabilities, t) for t in rivals)


@pytest.mark.parametrize("levels", [None, 50, 7], ids=["random", "some ties", "many ties"])
@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_calls_more_images_right_than_the_chosen_one(seed, levels):
    labels, logits = draw(300, seed)
    probabilities = squash(logits)
    check_choice(labels, probabilities if levels is None else np.round(probabilities * levels) / np.float32(levels))


ADJACENT = [np.float32(0.3), np.nextafter(np.float32(0.3), np.float32(1))]
CORNERS = [np.float32(0), TINY, 2 * TINY, *ADJACENT, np.float32(0.5), LARGEST, np.float32(1)]


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(CORNERS)), min_size=1, max_size=12))
def test_no_threshold_is_better_where_probabilities_are_neighbours_in_float32_or_all_the_same(images):
    check_choice(np.array([label for label, _ in images], np.uint8), np.array([score for _, score in images]))


@pytest.mark.parametrize("probability", CORNERS)
def test_every_image_can_be_called_real_and_every_image_fake(probability):
    probabilities = np.full(3, probability, np.float32)
    for label in (0, 1):
        labels = np.full(3, label, np.uint8)
        assert call_positive(probabilities, choose_threshold(labels, probabilities)).tolist() == [label == 1] * 3


def test_neighbours_in_float32_are_told_apart():
    labels, probabilities = np.array([0, 1], np.uint8), np.array(ADJACENT, np.float32)
    assert call_positive(probabilities, choose_threshold(labels, probabilities)).tolist() == [False, True]


def test_among_equally_good_thresholds_the_one_nearest_to_a_half_is_chosen():
    labels, probabilities = np.array([0, 0, 1, 1], np.uint8), np.array([0.1, 0.3, 0.8, 0.9], np.float32)
    assert choose_threshold(labels, probabilities) == pytest.approx(0.55)
    labels, probabilities = np.array([0, 1, 0, 1], np.uint8), np.array([0.1, 0.3, 0.5, 0.9], np.float32)
    assert choose_threshold(labels, probabilities) == pytest.approx(0.7)  # 0.2 calls as many right


def test_mcnemar_counts_the_images_that_only_one_model_calls_right():
    labels = np.ones(30, np.uint8)
    first, second = np.full(30, 0.9, np.float32), np.full(30, 0.9, np.float32)
    first[:2], second[10:20] = 0.1, 0.1
    pairing = compare_pair(labels, (first, 0.5), (second, 0.5))
    assert (pairing.only_first, pairing.only_second) == (10, 2)
    assert pairing.p == pytest.approx(2 * (1 + 12 + 66) / 2**12)


def test_models_that_agree_on_every_image_are_not_told_apart():
    labels, logits = draw(20)
    probabilities = squash(logits)
    assert compare_pair(labels, (probabilities, 0.5), (probabilities, 0.5)).p == 1.0


def test_a_threshold_comes_back_from_yaml_and_json_as_it_was(tmp_path):
    generator = np.random.default_rng(0)
    drawn = np.r_[generator.random(500, np.float32), squash(generator.normal(0, 40, 500).astype(np.float32)), CORNERS]
    thresholds = [-0.5, *map(float, drawn)]
    write_yaml(tmp_path / "study.yaml", {"thresholds": thresholds})
    assert read_yaml(tmp_path / "study.yaml")["thresholds"] == thresholds
    assert json.loads(json.dumps(thresholds)) == thresholds

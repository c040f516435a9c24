import numpy as np
import pytest
import torch

from search.evaluation.calibration import TEMPERATURES, fit_temperature, is_sure
from trainables.metrics import cross_entropy, to_probabilities


def draw(num=20_000, temperature=1.0):
    """Return labels and logits that are calibrated after a division by the temperature."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0.0, 2.0, num)
    labels = (generator.random(num) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    return labels, (temperature * logits).astype(np.float32)


def measure_loss(labels, logits, temperature):
    return cross_entropy(torch.from_numpy(logits).double() / temperature, torch.from_numpy(labels))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_logits_were_made_with_is_found(temperature):
    labels, logits = draw(temperature=temperature)
    fitted = fit_temperature(labels, logits)
    assert fitted == pytest.approx(temperature, rel=0.05)
    assert measure_loss(labels, logits, fitted) <= measure_loss(labels, logits, 1.0)
    assert fit_temperature(labels, logits) == fitted


@pytest.mark.parametrize(("sign", "expected"), [(1, TEMPERATURES[0]), (-1, TEMPERATURES[1])])
def test_logits_without_a_mistake_or_without_a_right_one_get_a_bound(sign, expected):
    labels = np.array([0, 1, 1], np.uint8)
    assert fit_temperature(labels, sign * np.array([-3.0, 2.0, 9.0], np.float32)) == expected


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [np.inf, -1.0, 3.0]])
def test_logits_that_no_temperature_makes_better_keep_theirs(logits):
    assert fit_temperature(np.array([1, 0, 1], np.uint8), np.array(logits, np.float32)) == 1.0


def test_a_temperature_changes_no_answer_at_one_half_and_none_changes_nothing():
    _, logits = draw(1000)
    raw = torch.from_numpy(logits)
    assert torch.equal(to_probabilities(raw), to_probabilities(raw, 1.0))
    assert torch.equal(to_probabilities(raw) > 0.5, to_probabilities(raw, 3.0) > 0.5)
    assert (to_probabilities(raw, 3.0) - 0.5).abs().max() < (to_probabilities(raw) - 0.5).abs().max()


def test_an_answer_is_sure_if_either_class_reaches_the_confidence_as_float32():
    probabilities = np.array([0.95, 0.05, 0.949, 0.051, 0.5, 0.0, 1.0], np.float32)
    assert is_sure(probabilities, 0.95).tolist() == [True, True, False, False, False, True, True]
    assert is_sure(probabilities, 0.5).all()

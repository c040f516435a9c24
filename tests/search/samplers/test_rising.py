from collections import Counter

import pytest

from search.config.load import parse
from search.record.trial import State, Trial
from search.report.searches import describe_shares
from search.samplers.rising import WINDOW, list_contenders
from search.samplers.shares import choose_architecture

FLAT = [0.5] * (WINDOW + 1)
RISING = [0.01 * step for step in range(WINDOW + 2)]  # by 0.01 a trial, now 0.08


@pytest.mark.parametrize(
    ("scores", "left", "able"),
    [
        ({"a": FLAT, "b": FLAT[1:]}, 5, ["a", "b"]),
        ({"a": FLAT, "b": [0.4] * WINDOW}, 5, ["a", "b"]),
        ({"a": FLAT, "b": [0.4] * (WINDOW + 1)}, 5, ["a"]),
        ({"a": RISING, "b": [0.5] * 3}, 42, ["a", "b"]),
        ({"a": RISING, "b": [0.5] * 3}, 41, ["b"]),
        ({"a": [-score for score in FLAT], "b": [-0.6] * (WINDOW + 1)}, 9, ["a"]),
        ({"a": [], "b": []}, 9, ["a", "b"]),
    ],
)
def test_an_architecture_is_behind_if_its_slope_does_not_reach_the_best(scores, left, able):
    assert list_contenders(scores, left) == able


def search(values, **settings):
    """Run trials one after the other, each with the next value of its architecture."""
    config = parse({"name": "x", "search": {"num_trials": 60, "max_epochs": 1, "divide": "value", **settings}})
    trials = []
    for number in range(60):
        architecture = choose_architecture(config, trials)
        rank = sum(trial.architecture == architecture for trial in trials)
        epochs = [{"epoch": 1, "accuracy": values[architecture](rank), "seconds": 1.0}]
        trials.append(Trial(number=number, architecture=architecture, params={}, epochs=epochs, state=State.COMPLETE))
    return config, trials


def test_what_is_left_goes_to_the_architecture_that_can_still_win():
    config, trials = search({"cnn": lambda _: 0.9, "resnet50": lambda _: 0.8})
    assert Counter(trial.architecture for trial in trials) == {"cnn": 52, "resnet50": WINDOW + 1}
    assert "while an architecture could still win, 1 to 1 among cnn, resnet50" in describe_shares(config, trials)


def test_the_floor_comes_before_the_rule():
    _, trials = search({"cnn": lambda _: 0.9, "resnet50": lambda _: 0.8}, min_trials=20)
    assert Counter(trial.architecture for trial in trials) == {"cnn": 40, "resnet50": 20}


def test_an_architecture_that_rises_late_is_kept_while_it_rises():
    _, trials = search({"cnn": lambda _: 0.8, "resnet50": lambda rank: 0.5 + 0.02 * rank})
    assert max(trials, key=lambda trial: trial.score).architecture == "resnet50"

import dataclasses
import math

import numpy as np
import pytest

from search.config.search import SearchConfig
from search.record.trial import State, Trial
from search.samplers.values import Values, extrapolate, list_bests, list_levels, take_highest

NAN = math.nan


def make_trial(scores, state=State.PRUNED, number=0, sign=1):
    return Trial(
        number=number,
        architecture="cnn",
        params={},
        epochs=[{"accuracy": sign * score} for score in scores],
        state=state,
        sign=sign,
    )


@pytest.mark.parametrize(
    ("search", "levels"),
    [
        ({"scheduler": "asha"}, [3, 9]),
        ({"scheduler": "asha", "grace_epochs": 1}, [1, 3, 9]),
        ({"scheduler": "hyperband"}, [1, 3, 9]),
        ({"scheduler": "median", "grace_epochs": 2}, [2, 6, 9]),
        ({"scheduler": "module:Own"}, [3, 9]),
        ({"scheduler": "none"}, [9]),
    ],
)
def test_the_levels_are_the_rungs_and_the_last_epoch(search, levels):
    assert list_levels(SearchConfig(max_epochs=9, **search), "cnn") == levels


def test_a_trial_of_one_epoch_has_one_level():
    assert list_levels(SearchConfig(max_epochs=1), "cnn") == [1]


def test_each_architecture_has_levels_of_its_own():
    search = SearchConfig(max_epochs={"cnn": 9, "resnet50": 3})
    assert [list_levels(search, name) for name in search.architectures] == [[3, 9], [1, 3]]


@pytest.mark.parametrize(
    ("scores", "state", "bests"),
    [
        ([], State.RUNNING, [NAN, NAN]),
        ([0.5, 0.9], State.RUNNING, [NAN, NAN]),
        ([0.5, 0.9, 0.2], State.PRUNED, [0.9, NAN]),
        ([0.1, 0.2, 0.3, 0.4, 0.2, 0.2], State.COMPLETE, [0.3, 0.4]),
        ([0.1, 0.2, 0.3, 0.4], State.COMPLETE, [0.3, 0.4]),
        ([0.7], State.COMPLETE, [NAN, 0.7]),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_trial_has_its_best_at_each_rung_that_it_reached_and_a_complete_one_reached_the_last(
    scores, state, bests, sign
):
    assert np.array_equal(list_bests(make_trial(scores, state, sign=sign), [3, 6]), bests, equal_nan=True)


def test_a_value_is_carried_by_the_line_through_the_trials_that_reached_both_rungs():
    low = np.linspace(0.0, 1.0, 200)
    bests = np.column_stack([low, 0.5 * low + 0.4])
    bests[:50, 1] = NAN
    carried = extrapolate(bests)
    assert carried[:, 0] == pytest.approx(0.5 * low + 0.4, abs=0.01)
    assert np.array_equal(carried[:, 1], bests[:, 1], equal_nan=True)


def test_values_are_carried_rung_by_rung():
    low = np.linspace(0.0, 1.0, 100)
    whole = np.column_stack([low, low + 0.1, low + 0.3])
    stopped = np.array([[0.5, NAN, NAN], [0.5, 0.6, NAN]])
    assert extrapolate(np.concatenate([whole, stopped]))[-2:, :2] == pytest.approx(
        np.array([[0.8, NAN], [0.8, 0.8]]), abs=1e-6, nan_ok=True
    )


@pytest.mark.parametrize(("rise", "slope"), [(-3.0, 0.0), (7.0, 2.0)])
def test_the_slope_of_the_line_is_between_0_and_2(rise, slope):
    low = np.linspace(0.0, 1.0, 50)
    carried = extrapolate(np.column_stack([low, rise * low]))[:, 0]
    assert np.ptp(carried) == pytest.approx(slope)
    assert carried.mean() == pytest.approx(rise / 2)


def test_without_a_trial_at_the_next_rung_a_value_stays_as_it_is():
    assert np.array_equal(extrapolate(np.array([[0.3, NAN], [0.5, NAN]]))[:, 0], [0.3, 0.5])
    assert np.isnan(extrapolate(np.full((2, 3), NAN))).all()


def test_one_trial_at_both_rungs_moves_the_others_by_what_it_gained():
    assert extrapolate(np.array([[0.3, 0.4], [0.5, NAN], [0.1, NAN]]))[:, 0] == pytest.approx([0.4, 0.6, 0.2])


def test_equal_values_at_a_rung_are_carried_to_the_mean_of_the_next():
    assert extrapolate(np.array([[0.5, 0.6], [0.5, 0.8], [0.5, NAN]]))[:, 0] == pytest.approx([0.7, 0.7, 0.7])


def test_the_value_of_a_trial_is_that_of_its_highest_rung():
    assert take_highest(np.array([[0.1, 0.2], [0.3, NAN], [NAN, 0.4], [NAN, NAN]])).tolist() == [
        0.2,
        0.3,
        0.4,
        -math.inf,
    ]


def test_a_running_trial_counts_with_the_epochs_that_it_has():
    values, trial = Values([1, 2]), make_trial([], State.RUNNING)
    values.start(trial)
    assert np.isnan(values.compare([0])).all()
    trial.epochs.append({"accuracy": 0.5})
    assert values.compare([0])[0, 0] == 0.5
    values.end(dataclasses.replace(trial, state=State.COMPLETE))
    assert values.compare([0]).tolist() == [[0.5, 0.5]]

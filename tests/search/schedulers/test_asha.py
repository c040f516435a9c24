import random

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from search.schedulers.asha import Asha


def make_asha(max_epochs=9):
    return Asha(grace_epochs=1, reduction_factor=3, max_epochs=max_epochs)


def test_asha_never_stops_the_first_trial_at_a_rung():
    assert not make_asha().report(0, 1, 0.0)


def test_asha_lets_a_tie_continue():
    asha = make_asha()
    assert [asha.report(number, 1, 0.5) for number in range(5)] == [False] * 5


def test_asha_stops_only_at_rungs():
    asha = make_asha()
    asha.report(0, 1, 0.9)
    asha.report(1, 1, 0.95)
    assert not asha.report(1, 2, 0.0)


def test_asha_stops_what_is_below_the_best_third():
    asha = make_asha()
    for number, value in enumerate([0.5, 0.6, 0.7]):
        asha.report(number, 1, value)
    assert asha.report(3, 1, 0.63)
    assert not asha.report(4, 1, 0.64)


def test_a_stopped_trial_still_counts_at_its_rung():
    asha = make_asha()
    asha.report(0, 1, 0.9)
    assert asha.report(1, 1, 0.1)
    assert asha.rungs[1] == {0: 0.9, 1: 0.1}


class RayTrial:
    def __init__(self, number):
        self.trial_id = str(number)


@pytest.mark.parametrize("seed", range(20))
def test_asha_decides_as_ray_tune_does(seed):
    draw = random.Random(seed)
    factor, max_epochs = draw.choice([2, 3, 4]), draw.choice([5, 9, 20, 27])
    ours = Asha(grace_epochs=1, reduction_factor=factor, max_epochs=max_epochs)
    theirs = ASHAScheduler(
        time_attr="epoch", metric="value", mode="max", max_t=max_epochs, grace_period=1, reduction_factor=factor
    )
    alive = {number: 0 for number in range(30)}
    for number in alive:
        theirs.on_trial_add(None, RayTrial(number))
    while alive:
        number = draw.choice(list(alive))
        alive[number] += 1
        epoch, value = alive[number], round(draw.random(), 2)
        decided = theirs.on_trial_result(None, RayTrial(number), {"epoch": epoch, "value": value})
        stop = ours.report(number, epoch, value) or epoch >= max_epochs
        assert stop == (decided == TrialScheduler.STOP)
        if stop:
            del alive[number]

import random

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from search.config.schema import SearchConfig
from search.schedulers.scheduler import SCHEDULERS, Asha, list_brackets, list_rungs


def make_asha(max_epochs=9):
    return Asha(grace_epochs=1, reduction_factor=3, max_epochs=max_epochs)


@pytest.mark.parametrize(
    ("grace", "factor", "max_epochs", "rungs"),
    [
        (1, 3, 27, [1, 3, 9]),
        (1, 3, 28, [1, 3, 9, 27]),
        (2, 2, 5, [2, 4]),
        (5, 3, 5, []),
        (1, 1.5, 6, [1, 2, 3, 4]),
        (1, 2, 1, []),
    ],
)
def test_rungs_are_grace_times_powers_of_the_factor_below_the_last_epoch(grace, factor, max_epochs, rungs):
    assert list_rungs(grace, factor, max_epochs) == rungs


def test_asha_never_stops_the_first_trial_at_a_rung():
    assert not make_asha().report(0, 1, 0.0)


def test_asha_lets_a_tie_go_on():
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


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_replaying_the_record_rebuilds_any_scheduler(name):
    search = SearchConfig(scheduler=name, max_epochs=9)
    draw = random.Random(0)
    record = [(number, epoch, draw.random()) for epoch in range(1, 9) for number in range(12)]
    straight, rebuilt = SCHEDULERS[name](search), SCHEDULERS[name](search)
    for row in record[:50]:
        straight.report(*row)
        rebuilt.report(*row)
    assert [straight.report(*row) for row in record[50:]] == [rebuilt.report(*row) for row in record[50:]]


def test_the_scheduler_none_stops_nobody():
    scheduler = SCHEDULERS["none"](SearchConfig(scheduler="none"))
    assert not any(scheduler.report(number, 1, -number) for number in range(10))


def make_hyperband():
    return SCHEDULERS["hyperband"](SearchConfig(scheduler="hyperband", max_epochs=9))


def test_hyperband_gives_its_brackets_the_same_epochs():
    assert [first for first, _ in list_brackets(1, 3, 9)] == [1, 3, 9]
    assert [share for _, share in list_brackets(1, 3, 9)] == pytest.approx([3 / 5.5, 1.5 / 5.5, 1 / 5.5])
    assert list_brackets(5, 3, 5) == [(5, 1.0)]


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_hyperband_deals_its_brackets_evenly_whichever_numbers_an_architecture_has(step):
    hyperband = make_hyperband()
    found = [hyperband.find_bracket(number) for number in range(0, 110 * step, step)]
    assert [abs(found.count(place) - due) <= 3 for place, due in enumerate((60, 30, 20))] == [True] * 3


def test_hyperband_compares_trials_within_their_bracket_only():
    hyperband = make_hyperband()
    members = {}
    for number in range(20):
        members.setdefault(hyperband.find_bracket(number), []).append(number)
    early, late, last = (members[place] for place in range(3))
    assert not hyperband.report(early[0], 1, 0.9)
    assert not hyperband.report(late[0], 1, 0.1)
    assert not hyperband.report(late[0], 3, 0.1)
    assert hyperband.report(early[1], 1, 0.1)
    assert not any(hyperband.report(last[0], epoch, 0.0) for epoch in range(1, 9))


def test_hyperband_never_stops_the_first_trial_and_lets_a_tie_go_on():
    hyperband = make_hyperband()
    assert not any(hyperband.report(number, epoch, 0.5) for epoch in range(1, 9) for number in range(12))


def make_median(grace_epochs=2):
    return SCHEDULERS["median"](SearchConfig(scheduler="median", max_epochs=9, grace_epochs=grace_epochs))


def test_the_median_stops_nobody_before_the_grace_epochs_or_without_peers():
    median = make_median()
    assert not any(median.report(number, 1, 1.0 - number) for number in range(10))
    assert not any(median.report(number, 2, 1.0 - number) for number in range(5))
    assert median.report(5, 2, -5.0)


def test_the_median_holds_the_best_so_far_against_the_averages_of_the_others():
    median = make_median()
    for number in range(5):
        median.report(number, 1, 0.2)
        median.report(number, 2, 0.6)
    assert not median.report(5, 1, 0.4)
    assert not median.report(5, 2, 0.1)  # its best, 0.4, ties with the average of 0.2 and 0.6
    assert not median.report(6, 1, 0.3)
    assert median.report(6, 2, 0.3)


def test_the_median_lets_a_tie_go_on():
    median = make_median(grace_epochs=1)
    assert not any(median.report(number, epoch, 0.5) for epoch in range(1, 9) for number in range(12))

import pytest

from search.config.search import SearchConfig
from search.schedulers.scheduler import SCHEDULERS


def make_hyperband():
    return SCHEDULERS["hyperband"](SearchConfig(scheduler="hyperband", max_epochs=9), "cnn")


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_hyperband_fills_its_brackets_evenly_for_any_numbers_of_an_architecture(step):
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


def test_hyperband_never_stops_the_first_trial_and_lets_a_tie_continue():
    hyperband = make_hyperband()
    assert not any(hyperband.report(number, epoch, 0.5) for epoch in range(1, 9) for number in range(12))

import pytest

from search.config.load import parse
from search.record.trial import State, Trial
from search.report.summary import find_paper_trial, format_paper, summarize_search


def make_trial(number, *values, architecture="cnn", state=State.COMPLETE, params=None, seconds=36.0):
    epochs = [{"epoch": epoch, "accuracy": value, "seconds": seconds} for epoch, value in enumerate(values, start=1)]
    return Trial(number=number, architecture=architecture, params=params or {}, epochs=epochs, state=state)


def make_config(**search):
    space = {"cnn": {"filters": {"low": 8, "high": 64}}}
    return parse({"name": "x", "search": {"max_epochs": 4, "architectures": ["cnn"], **search}, "space": space})


def test_a_search_is_summed_up_as_it_was_and_as_it_had_been_without_stopping():
    trials = [
        make_trial(0, 0.7, 0.8, 0.85, 0.8),
        make_trial(1, 0.6, state=State.PRUNED, params={"filters": 8}),
        make_trial(2, 0.7, 0.75, state=State.PRUNED, params={"filters": 9}, seconds=72.0),
        make_trial(3, 0.5, state=State.FAIL, params={"filters": 10}),
    ]
    (found,) = summarize_search(make_config(), trials)
    assert (found.trials, found.failed, found.epochs, found.full_epochs) == (4, 1, 8, 13)
    assert found.stopped == pytest.approx(2 / 3)
    assert found.seconds == pytest.approx((4 + 1 + 4 + 1) * 36)
    assert found.full_seconds == pytest.approx((4 + 4 + 8 + 1) * 36)
    assert (found.best, found.paper) == (0.85, 0.85)
    assert found.importance == {}


def test_an_architecture_whose_trials_all_failed_has_no_best():
    (found,) = summarize_search(make_config(), [make_trial(0, state=State.FAIL)])
    assert (found.best, found.paper, found.stopped, found.full_epochs) == (None, None, 0.0, 0)


def test_the_parameter_that_decides_is_the_most_important_one():
    values = [8 + 2 * number for number in range(20)]
    trials = [make_trial(number, value / 100, params={"filters": value}) for number, value in enumerate(values)]
    (found,) = summarize_search(make_config(), trials)
    assert found.importance == {"filters": 1.0}


def test_the_papers_configuration_is_found_whatever_weights_it_started_from():
    trials = [
        make_trial(0, 0.7, architecture="resnet50", params={"weights": "imagenet", "dropout": 0.5}),
        make_trial(1, 0.7, architecture="resnet50", params={"weights": "imagenet"}),
        make_trial(2, 0.7, params={"filters": 8}),
        make_trial(3, state=State.FAIL),
    ]
    assert find_paper_trial(trials, "resnet50") is trials[1]
    assert find_paper_trial(trials, "cnn") is None


def test_a_value_of_the_papers_configuration_says_that_its_trial_was_stopped():
    (stopped,) = summarize_search(make_config(), [make_trial(0, 0.5, state=State.PRUNED)])
    (whole,) = summarize_search(make_config(), [make_trial(0, 0.5)])
    assert [format_paper(each, "accuracy") for each in (stopped, whole)] == ["50.00 (stopped, 1 epoch)", "50.00"]

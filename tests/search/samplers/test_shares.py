from collections import Counter

import pytest

from search.config.load import parse
from search.record.trial import State, Trial
from search.report.searches import describe_shares
from search.samplers.shares import (
    check_shares,
    choose_architecture,
    find_furthest_behind,
    measure_seconds,
    measure_use,
    name_device,
)
from trainables.errors import InputError

COSTS = {"cnn": 1.0, "resnet50": 10.0}
"""Seconds of an epoch."""


def build(*, resources=None, recipes=(), **search):
    settings = {"num_trials": 60, "max_epochs": 9, **search}
    return parse({"name": "x", "search": settings, "resources": resources or {}, "recipes": list(recipes)})


def make_trial(number, architecture, epochs, state=State.COMPLETE):
    rows = [{"epoch": epoch, "seconds": COSTS[architecture]} for epoch in range(1, epochs + 1)]
    return Trial(number=number, architecture=architecture, params={}, epochs=rows, state=state)


def search(config, slots=1):
    """Hand out all trials; the oldest ends when all slots are taken: a CNN after 9 epochs, a ResNet-50 after 3."""
    trials, running = [], []
    for number in range(config.search.num_trials):
        trials.append(make_trial(number, choose_architecture(config, trials), 0, State.RUNNING))
        running.append(trials[-1])
        if len(running) == slots:
            ended = running.pop(0)
            done = make_trial(ended.number, ended.architecture, 9 if ended.architecture == "cnn" else 3)
            ended.epochs, ended.state = done.epochs, done.state
    return trials


def test_architectures_get_their_shares():
    counts = {}
    for _ in range(130):
        chosen = find_furthest_behind(counts, {"cnn": 100, "resnet50": 30})
        counts[chosen] = counts.get(chosen, 0) + 1
    assert counts == {"cnn": 100, "resnet50": 30}


def test_no_architecture_waits_long_for_its_first_trial():
    counts = {"cnn": 0}
    order = []
    for _ in range(4):
        chosen = find_furthest_behind(counts, {"cnn": 3, "resnet50": 1})
        counts[chosen] = counts.get(chosen, 0) + 1
        order.append(chosen)
    assert order == ["cnn", "cnn", "resnet50", "cnn"]


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize(
    ("divide", "cnn", "resnet50"),
    [
        ("trials", 1, 1),
        ("epochs", 9, 3),
        ("seconds", 9, 30),
    ],
)
def test_each_gets_the_same_amount_of_what_is_shared(divide, cnn, resnet50, slots):
    counts = Counter(trial.architecture for trial in search(build(divide=divide), slots))
    # A trial more or less than an equal division, and those whose use was guessed while the first slots filled.
    expected = 60 / cnn / (1 / cnn + 1 / resnet50)
    assert abs(counts["cnn"] - expected) <= 1 + slots / 2


def test_weights_apply_to_epochs_as_to_trials():
    trials = search(build(divide="epochs", shares={"cnn": 3, "resnet50": 1}))
    epochs = Counter()
    for trial in trials:
        epochs[trial.architecture] += len(trial.epochs)
    assert epochs["cnn"] / epochs["resnet50"] == pytest.approx(3, rel=0.1)


def test_seconds_count_the_gpus_that_were_granted():
    resources = {"cnn": {"cpus": 1, "gpus": 0.25}, "resnet50": {"cpus": 2, "gpus": 1}}
    config = build(divide="seconds", resources=resources)
    assert name_device(config) == "GPU"
    assert measure_seconds(config, make_trial(0, "cnn", 8)) == 2.0
    assert measure_seconds(config, make_trial(0, "resnet50", 3)) == 30.0


def test_seconds_count_the_cpus_where_an_architecture_has_no_gpu():
    config = build(resources={"cnn": {"cpus": 1}, "resnet50": {"cpus": 2, "gpus": 1}})
    assert name_device(config) == "CPU"
    assert measure_seconds(config, make_trial(0, "resnet50", 3)) == 60.0


def test_a_running_or_failed_trial_counts_as_much_as_its_architectures_average_trial():
    config = build(divide="epochs")
    trials = [
        make_trial(0, "cnn", 9),
        make_trial(1, "cnn", 3, State.PRUNED),
        make_trial(2, "cnn", 2, State.RUNNING),
        make_trial(3, "cnn", 8, State.RUNNING),
        make_trial(4, "cnn", 0, State.FAIL),
        make_trial(5, "resnet50", 0, State.FAIL),
    ]
    assert measure_use(config, trials) == ({"cnn": 9 + 3 + 6 + 8 + 6, "resnet50": 6}, 6)


def test_an_architecture_that_always_fails_does_not_get_all_trials():
    config, trials = build(divide="seconds"), []
    for number in range(40):
        name = choose_architecture(config, trials)
        trials.append(
            make_trial(number, name, 9 if name == "cnn" else 0, State.COMPLETE if name == "cnn" else State.FAIL)
        )
    assert Counter(trial.architecture for trial in trials) == {"cnn": 20, "resnet50": 20}


@pytest.mark.parametrize("divide", ["trials", "epochs", "seconds"])
def test_a_small_share_still_gets_the_least_number_of_trials_first(divide):
    config = build(divide=divide, shares={"cnn": 1000, "resnet50": 1}, min_trials=3)
    names = [trial.architecture for trial in search(config)]
    assert Counter(names[:6]) == {"cnn": 3, "resnet50": 3}
    assert Counter(names)["resnet50"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_trials": 1}, "leaves resnet50 without a trial"),
        ({"num_trials": 5, "shares": {"cnn": 9, "resnet50": 1}, "min_trials": 3}, "resnet50 with fewer than 3 trials"),
        ({"num_trials": 5, "divide": "epochs", "min_trials": 3}, "resnet50 with fewer than 3 trials"),
        ({"num_trials": 1, "divide": "seconds"}, "leaves resnet50 without a trial"),
    ],
)
def test_a_study_that_leaves_an_architecture_without_enough_trials_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        check_shares(build(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_trials": 2},
        {"num_trials": 20, "shares": {"cnn": 100, "resnet50": 1}, "min_trials": 3},
        {"num_trials": 6, "divide": "epochs", "min_trials": 3},
        {"num_trials": 20, "divide": "seconds", "shares": {"cnn": 100, "resnet50": 1}},
    ],
)
def test_an_architecture_that_passes_the_check_gets_its_trials(settings):
    config = build(**settings)
    check_shares(config)
    counts = Counter(trial.architecture for trial in search(config))
    assert min(counts["cnn"], counts["resnet50"]) >= config.search.min_trials


def test_recipes_count_among_the_least_number_of_trials():
    recipes = [{"architecture": "cnn"}, {"architecture": "cnn"}, {"architecture": "cnn"}]
    with pytest.raises(InputError, match="leaves resnet50 without a trial"):
        check_shares(build(num_trials=3, divide="epochs", recipes=recipes))
    check_shares(build(num_trials=4, divide="epochs", recipes=recipes))


def test_a_sentence_says_what_was_shared_and_what_each_architecture_got():
    resources = {"cnn": {"gpus": 0.25}, "resnet50": {"gpus": 1}}
    config = build(divide="seconds", shares={"cnn": 1, "resnet50": 2}, resources=resources)
    assert describe_shares(config, [make_trial(0, "cnn", 8), make_trial(1, "resnet50", 3)]) == (
        "The search divided the GPU-seconds of training 1 to 2 among cnn, resnet50: cnn got 1 trial, 8 epochs, "
        "2 GPU-seconds; resnet50 got 1 trial, 3 epochs, 30 GPU-seconds."
    )

"""A search that ends by itself: its target is reached, or its trials bring nothing better."""

import pytest

from search.config.load import parse
from search.record.journal import Journal
from search.record.metric import Metric
from search.record.trial import State
from search.report.ending import describe_ending, list_ending
from search.study import Study
from trainables.errors import InputError

SPACE = {"shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
LEVELS = [0.5, 0.6, 0.6, 0.55, 0.7, 0.1, 0.2, 0.3, 0.4, 0.9]
"""Best accuracy of trial 0, 1, ..."""


def open_study(folder, **search):
    settings = {"num_trials": 10, "max_epochs": 3, "scheduler": "none", "architectures": ["cnn"], **search}
    config = parse({"name": "x", "search": settings, "space": SPACE})
    metric = Metric(config.search.metric, config.search.sign)
    return Study(config, Journal(folder / "study.journal", "x", note=print, metric=metric))


def measure(trial, epoch, levels=LEVELS):
    value = levels[trial.number] - 0.01 * (3 - epoch)
    return {"epoch": epoch, "accuracy": value, "loss": 1 - value}


def run(study, limit=None, slots=1, levels=LEVELS):
    """Run trials in turns, as many side by side as there are slots; stop, as if killed, after `limit` epochs."""
    running, trained = [], 0
    while True:
        while len(running) < slots and (trial := study.ask()) is not None:
            running.append(trial)
        if not running or (study.halt_reason and not study.is_over):
            break
        if trained == limit:
            return False
        trained += 1
        trial = running.pop(0)
        if not study.report(trial.number, measure(trial, len(trial.epochs) + 1, levels), "cpu"):
            running.append(trial)
    if not study.is_over:
        study.halt(study.halt_reason)
    return True


def summarize(study):
    return [(t.number, t.params, t.epochs, t.state, t.reason) for t in study.trials]


def explain(study):
    return describe_ending(study.config, study.trials, study._journal)


def test_a_search_ends_when_so_many_finished_trials_brought_no_better_value(tmp_path):
    study = open_study(tmp_path, patience_trials=2)
    run(study)
    assert len(study.trials) == 4
    assert study.halt_reason == explain(study) == "no better value came in 2 finished trials (search.patience_trials)"


@pytest.mark.parametrize(("patience", "count"), [(1, 3), (2, 4), (3, 8), (4, 9), (5, 10), (9, 10)])
def test_the_patience_counts_from_the_last_better_trial(tmp_path, patience, count):
    study = open_study(tmp_path, patience_trials=patience)
    run(study)
    assert len(study.trials) == count


def test_a_trial_that_only_equals_the_best_is_no_better_one(tmp_path):
    study = open_study(tmp_path, patience_trials=3)
    run(study, levels=[0.5] * 10)
    assert len(study.trials) == 4


def test_trials_that_were_stopped_count_as_finished_and_failed_ones_do_not(tmp_path):
    study = open_study(tmp_path, patience_trials=2)
    first = study.ask()
    for epoch in (1, 2, 3):
        study.report(first.number, measure(first, epoch, [0.9] * 10), "cpu")
    for state in (State.FAIL, State.FAIL, State.PRUNED, State.PRUNED):
        assert study.halt_reason is None
        trial = study.ask()
        study.report(trial.number, measure(trial, 1, [0.5] * 10), "cpu")
        study._end(trial, state, "for the test")
    assert study.halt_reason is not None
    assert open_study(tmp_path, patience_trials=2).halt_reason == study.halt_reason


def test_the_value_of_a_trial_that_fails_is_no_value_to_beat(tmp_path):
    study = open_study(tmp_path, patience_trials=1, target=0.85)
    first, second = study.ask(), study.ask()
    study.report(first.number, measure(first, 1, [0.9] * 10), "cpu")
    study.fail(first.number, "its worker broke down")
    for epoch in (1, 2, 3):
        study.report(second.number, measure(second, epoch, [0.5] * 10), "cpu")
    assert study.halt_reason is None
    assert open_study(tmp_path, patience_trials=1, target=0.85).halt_reason is None


def test_a_search_does_not_end_while_a_running_trial_is_still_getting_better(tmp_path):
    study = open_study(tmp_path, patience_trials=1, max_epochs=9)
    first, second = study.ask(), study.ask()
    for epoch in range(1, 10):
        study.report(first.number, {"epoch": epoch, "accuracy": 0.5}, "cpu")
        study.report(second.number, {"epoch": epoch, "accuracy": 0.5 + 0.01 * epoch}, "cpu")
    assert study.halt_reason is None


def test_each_architecture_has_its_own_best_value(tmp_path):
    study = open_study(tmp_path, patience_trials=2, architectures=["cnn", "resnet50"])
    run(study, levels=[0.9, 0.1, 0.5, 0.2, 0.5, 0.3, 0.5, 0.3, 0.5, 0.3])
    assert [trial.architecture for trial in study.trials] == ["cnn", "resnet50"] * 4
    assert study.halt_reason is not None


@pytest.mark.parametrize(("metric", "target"), [("accuracy", 0.685), ("loss", 0.315)])
def test_a_search_ends_at_the_epoch_that_reaches_the_target(tmp_path, metric, target):
    study = open_study(tmp_path, target=target, metric=metric)
    run(study)
    assert len(study.trials) == 5
    assert [(trial.state, len(trial.epochs)) for trial in study.trials[3:]] == [
        (State.COMPLETE, 3),
        (State.PRUNED, 2),
    ]
    assert study.trials[4].reason == f"trial 4 reached search.target = {target:g}"


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("ending", [{"patience_trials": 2}, {"target": 0.69}])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7, 11])
def test_a_killed_search_ends_where_one_that_was_not_killed_does(tmp_path, ending, limit, slots):
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    run(straight := open_study(tmp_path / "straight", **ending), slots=1)
    while not run(killed := open_study(tmp_path / "killed", **ending), limit, slots):
        pass
    assert killed.halt_reason == straight.halt_reason is not None
    assert slots > 1 or summarize(killed) == summarize(straight)
    again = open_study(tmp_path / "killed", **ending)
    assert again.ask() is None
    assert again.halt_reason == killed.halt_reason
    assert summarize(again) == summarize(killed)


@pytest.mark.parametrize(
    ("ending", "other"), [({"patience_trials": 2}, {"patience_trials": 5}), ({"target": 0.6}, {"target": None})]
)
def test_a_search_that_has_ended_continues_with_another_value_of_the_key(tmp_path, ending, other):
    run(open_study(tmp_path, **ending))
    run(study := open_study(tmp_path, **other))
    assert len(study.trials) == 10


def test_an_end_between_two_lines_is_decided_again(tmp_path):
    run(study := open_study(tmp_path, patience_trials=2), slots=3)
    lines = (tmp_path / "study.journal").read_text().splitlines(keepends=True)
    told = summarize(study)
    for cut in range(len(lines) - 4, len(lines)):
        other = tmp_path / str(cut)
        other.mkdir()
        (other / "study.journal").write_text("".join(lines[:cut]))
        resumed = open_study(other, patience_trials=2)
        assert resumed.ask() is None
        resumed.halt(resumed.halt_reason)
        assert summarize(resumed) == told


def test_the_report_says_why_a_search_ended_early_and_nothing_of_one_that_did_not(tmp_path):
    run(study := open_study(tmp_path, patience_trials=2))
    told = ["The search ended early: no better value came in 2 finished trials (search.patience_trials)."]
    assert list_ending(study.config, study.trials, study._journal) == told
    whole = tmp_path / "whole"
    whole.mkdir()
    run(study := open_study(whole, target=0.9))
    assert study.is_over
    assert list_ending(study.config, study.trials, study._journal) == []


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"target": 98}, "search.target = 98: expected a number from 0 to 1, as accuracy is"),
        ({"target": -1.0, "metric": "loss"}, "search.target = -1: expected a number of at least 0, as loss is"),
        ({"target": "high"}, "search.target = 'high'"),
        ({"patience_trials": 0}, "search.patience_trials = 0"),
    ],
)
def test_a_wrong_key_is_one_sentence(search, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        parse({"name": "x", "search": search})

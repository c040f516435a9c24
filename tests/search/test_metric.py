"""A study is compared by its metric and its goal; the record says both, and values are stored as they are."""

import math

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from search.config.load import parse
from search.evaluation.choices import choose, choose_winners
from search.record.journal import Journal
from search.record.metric import METRIC_NAMES, Metric
from search.record.trial import State, rank_trials
from search.study import Study
from trainables.errors import InputError

SPACE = {"cnn": {"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}, "dropout": {"low": 0.0, "high": 0.9}}}


def build_config(metric, **search):
    settings = {"architectures": ["cnn"], "num_trials": 24, "max_epochs": 9, "grace_epochs": 1, "metric": metric}
    return parse({"name": "x", "space": SPACE, "search": {**settings, "num_startup_trials": 5, **search}})


def open_journal(folder, config):
    folder.mkdir(exist_ok=True)
    return Journal(
        folder / "study.journal", "x", note=pytest.fail, metric=Metric(config.search.metric, config.search.sign)
    )


def measure(trial, epoch):
    distance = abs(math.log10(trial.params["learning_rate"]) + 2.5) + trial.params["dropout"]
    return round(distance, 1) + 1.0 / epoch  # rounded, for ties


def run(folder, config, *, num_epochs=10**6):
    study = Study(config, open_journal(folder, config))
    while num_epochs > 0 and (trial := study.ask()) is not None:
        ends = False
        while not ends and num_epochs > 0:
            epoch, num_epochs = len(trial.epochs) + 1, num_epochs - 1
            loss = measure(trial, epoch)
            ends = study.report(trial.number, {"epoch": epoch, "loss": loss, "accuracy": -loss}, "cpu")
    return study


@pytest.mark.parametrize("sampler", ["tpe", "tpe_multivariate", "tpe_tame", "gp", "gp_rungs"])
@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_study_with_goal_min_is_the_mirror_of_one_with_goal_max(tmp_path, sampler, scheduler):
    found = {}
    for metric in ("loss", "accuracy"):
        settings = {"sampler": sampler, "scheduler": scheduler, "patience_epochs": 4, "patience_delta": 0.1}
        config = build_config(metric, **settings)
        found[metric] = run(tmp_path / metric, config)
    down, up = found["loss"].trials, found["accuracy"].trials
    assert [trial.params for trial in down] == [trial.params for trial in up]
    assert [(t.state, t.reason, t.get_peak()[1]) for t in down] == [(t.state, t.reason, t.get_peak()[1]) for t in up]
    assert [trial.get_peak()[0] for trial in down] == [-trial.get_peak()[0] for trial in up]
    assert [trial.number for trial in rank_trials(down)] == [trial.number for trial in rank_trials(up)]
    winners = [[trial.number for trial in choose_winners(trials, "cnn", 3)] for trials in (down, up)]
    assert winners[0] == winners[1]
    assert State.PRUNED in {trial.state for trial in down}


def test_a_killed_study_with_goal_min_continues_as_if_uncut(tmp_path):
    config = build_config("loss")
    for epochs in (13, 40):
        run(tmp_path / "killed", config, num_epochs=epochs)
    assert run(tmp_path / "killed", config).trials == run(tmp_path / "uncut", config).trials


def test_plain_optuna_reads_direction_metric_and_values_as_they_are(tmp_path):
    trials = run(tmp_path, build_config("loss")).trials
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    study = optuna.load_study(study_name="x", storage=storage)
    assert study.direction is StudyDirection.MINIMIZE
    assert study.metric_names == ["loss"]
    assert [trial.value for trial in study.trials] == [trial.get_peak()[0] for trial in trials]
    assert [list(trial.intermediate_values.values()) for trial in study.trials] == [t.list_values() for t in trials]
    finished = [trial for trial in trials if trial.state is State.COMPLETE]
    best = min(finished, key=lambda trial: (trial.get_peak()[0], trial.number))
    assert study.best_trial.number == best.number
    assert study.best_value == best.get_peak()[0] > 0


@pytest.mark.parametrize("other", ["accuracy", "auroc"])
def test_a_journal_of_another_metric_is_refused(tmp_path, other):
    run(tmp_path, build_config("loss"), num_epochs=3)
    with pytest.raises(InputError, match=rf"compares by loss \(the smallest is best\), not by {other} \(the largest"):
        open_journal(tmp_path, build_config(other))


def test_a_journal_that_names_no_metric_is_of_accuracy(tmp_path):
    run(tmp_path, build_config("accuracy"), num_epochs=3)
    path = tmp_path / "study.journal"
    lines = [line for line in path.read_text().splitlines(keepends=True) if METRIC_NAMES not in line]
    path.write_text("".join(lines))
    journal = open_journal(tmp_path, build_config("accuracy"))
    assert journal.metric == Metric("accuracy", 1)
    assert next(trial.list_values() for trial in journal.load()) == [
        -metrics["loss"] for metrics in journal.load()[0].epochs
    ]
    with pytest.raises(InputError, match="compares by accuracy"):
        open_journal(tmp_path, build_config("loss"))


def test_a_damaged_metric_is_refused_in_a_sentence(tmp_path):
    run(tmp_path, build_config("loss"), num_epochs=3)
    path = tmp_path / "study.journal"
    path.write_text(path.read_text().replace('["loss"]', '["\\u001b[2J"]'))
    with pytest.raises(InputError, match=r"the metric of .* is damaged"):
        Journal.read(path, "x")


def test_the_goal_follows_the_metric_and_a_contradiction_is_refused():
    assert build_config("loss").search.sign == build_config("loss", goal="min").search.sign == -1
    assert build_config("auroc").search.sign == build_config("auroc", goal="max").search.sign == 1
    for metric, goal in (("accuracy", "min"), ("loss", "max")):
        with pytest.raises(InputError, match=rf"search\.goal = {goal}: {metric} has the goal"):
            build_config(metric, goal=goal)
    with pytest.raises(InputError, match=r"search\.metric = 'error': expected one of accuracy, auroc, f1"):
        build_config("error")


def test_the_rule_of_the_choices_names_the_metric(tmp_path):
    config = build_config("loss")
    choices = choose(config, run(tmp_path, config).trials, "0" * 64)
    assert choices.rule.startswith("lowest validation loss at any epoch")
    best = min(trial.get_peak()[0] for trial in open_journal(tmp_path, config).load())
    assert choices.winners[0].value == best


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e305, "0.5", True, None])
def test_a_metric_that_is_no_finite_number_fails_the_trial_alone(tmp_path, value):
    config = build_config("loss")
    study = Study(config, open_journal(tmp_path, config))
    first = study.ask()
    assert study.report(first.number, {"epoch": 1, "loss": value}, "cpu")
    assert study.trials[0].state is State.FAIL
    assert "not a finite number" in study.trials[0].reason
    assert study.ask().number == 1


def test_another_metric_that_the_journal_could_not_hold_fails_the_trial_alone(tmp_path):
    config = build_config("loss")
    study = Study(config, open_journal(tmp_path, config))
    assert study.report(study.ask().number, {"epoch": 1, "loss": 0.5, "energy": 1e305}, "cpu")
    assert study.trials[0].reason == "energy of epoch 1 is 1e+305, not a finite number up to 1e+300"
    assert Study(config, open_journal(tmp_path, config)).trials[0].state is State.FAIL

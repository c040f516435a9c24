import json
from datetime import datetime, timedelta

import pytest
from optuna.trial import TrialState

from search.config.load import parse
from search.record.trial import State, Trial
from search.report.charts import build_charts
from search.report.history import MIN_TRIALS, build_study, build_timeline, explain_missing, measure_importance

CONFIG = parse(
    {
        "name": "x",
        "space": {
            "shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
            "cnn": {"filters": {"choice": [16, 32]}},
        },
    }
)
START = datetime(2026, 1, 1)


def make_trial(number, *, architecture="cnn", values=(0.6, 0.8, 0.7), state=State.COMPLETE, **params):
    known = {"learning_rate": 0.01, "filters": 16} if architecture == "cnn" else {"learning_rate": 0.01}
    return Trial(
        number=number,
        architecture=architecture,
        params=known | {"dropout": 0.1} | params,
        epochs=[{"accuracy": value} for value in values],
        state=state,
        started=START + timedelta(seconds=number),
        ended=START + timedelta(seconds=number + 5) if state is not State.RUNNING else None,
    )


def test_a_study_has_one_architectures_trials_under_plain_names():
    trials = [make_trial(0), make_trial(1, architecture="resnet50"), make_trial(2, filters=32)]
    study = build_study(CONFIG, trials, "cnn")
    assert [trial.params for trial in study.trials] == [
        {"filters": 16, "learning_rate": 0.01},
        {"filters": 32, "learning_rate": 0.01},
    ]
    assert [trial.user_attrs["trial"] for trial in study.trials] == [0, 2]
    assert study.best_value == 0.8


def test_text_that_plotly_would_render_is_escaped():
    link = '<a href="https://example.org">x</a>\u202e'
    config = parse({"name": "x", "space": {"resnet50": {"weights": {"choice": ["none", link]}}}})
    trials = [make_trial(number, architecture="resnet50", weights=link) for number in range(3)]
    for chart in build_charts(config, trials, "resnet50"):
        assert "<a" not in chart.figure
        assert "u202e&" not in chart.figure
        assert "\u202e" not in chart.figure
    study = build_study(config, trials, "resnet50")
    assert study.trials[0].params == {"weights": '&lt;a href="https://example.org"&gt;x&lt;/a&gt;\\u202e'}


def test_a_stopped_trial_counts_as_complete_with_its_curve_and_a_failed_one_has_no_value():
    trials = [
        make_trial(0, state=State.PRUNED),
        make_trial(1, state=State.FAIL, values=(0.5,)),
        make_trial(2, state=State.RUNNING, values=()),
    ]
    stopped, failed, running = build_study(CONFIG, trials, "cnn").trials
    assert (stopped.state, stopped.value) == (TrialState.COMPLETE, 0.8)
    assert stopped.intermediate_values == {1: 0.6, 2: 0.8, 3: 0.7}
    assert (failed.state, failed.value) == (TrialState.FAIL, None)
    assert running.state is TrialState.RUNNING


def test_a_trial_outside_a_space_changed_since_is_left_out():
    trials = [make_trial(0), make_trial(1, filters=48), make_trial(2, learning_rate=0.5)]
    assert [trial.user_attrs["trial"] for trial in build_study(CONFIG, trials, "cnn").trials] == [0]


def test_the_timeline_has_every_trial_and_when_it_ran():
    unknown = Trial(number=3, architecture="cnn", params={})
    study = build_timeline([make_trial(0), make_trial(1, architecture="resnet50"), make_trial(2, filters=48), unknown])
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert [trial.datetime_start for trial in study.trials] == [START + timedelta(seconds=n) for n in range(3)]
    assert {trial.duration for trial in study.trials} == {timedelta(seconds=5)}


def test_the_parameter_that_decides_is_the_important_one():
    rates = [10 ** (-1 - 3 * number / 39) for number in range(40)]
    trials = [
        make_trial(number, values=(1 - rate,), state=State.PRUNED, learning_rate=rate, filters=16 + 16 * (number % 2))
        for number, rate in enumerate(rates)
    ]
    importance = measure_importance(build_study(CONFIG, trials, "cnn"))
    assert list(importance) == ["learning_rate", "filters"]
    assert sum(importance.values()) == pytest.approx(1)
    assert importance["learning_rate"] > 0.8


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="no trial"),
        pytest.param([0.1 * number for number in range(MIN_TRIALS - 1)], id="too few"),
        pytest.param([0.5] * (2 * MIN_TRIALS), id="all the same"),
    ],
)
def test_importance_is_empty_where_nothing_can_be_said(values):
    trials = [make_trial(number, values=(value,)) for number, value in enumerate(values)]
    assert measure_importance(build_study(CONFIG, trials, "cnn")) == {}


def test_a_parameter_with_a_condition_has_an_importance_and_one_slice():
    units = {"low": 8, "high": 512, "when": {"dense_layers": [1]}}
    config = parse({"name": "x", "space": {"cnn": {"dense_layers": {"choice": [0, 1]}, "dense_units": units}}})
    trials = [make_trial(0, values=(0.9,), dense_layers=1, dense_units=500)]  # the only one of its kind
    trials += [make_trial(number, values=(0.5 + number / 1e3,), dense_layers=0) for number in range(1, 15)]
    assert set(measure_importance(build_study(config, trials, "cnn"))) == {"dense_layers", "dense_units"}
    assert [each.kind for each in build_charts(config, trials, "cnn")].count("slice") == 2
    for number in range(15, 45):
        units = 8 * (number - 14)
        trials.append(make_trial(number, values=(0.5 + units / 1000,), dense_layers=1, dense_units=units))
    charts = build_charts(config, trials, "cnn")
    assert [chart.kind for chart in charts] == ["history", "importance", "parallel", "slice", "slice"]
    assert next(iter(measure_importance(build_study(config, trials, "cnn")))) == "dense_units"
    parallel = json.loads(charts[2].figure)
    assert len(parallel["data"]) == len(trials)


def test_twelve_trials_have_an_importance_and_fewer_say_how_many_are_missing():
    trials = [
        make_trial(number, values=(0.5 + number / 100,), learning_rate=10 ** -(1 + number / 4)) for number in range(12)
    ]
    study = build_study(CONFIG, trials, "cnn")
    assert set(measure_importance(study)) == {"learning_rate", "filters"}
    assert explain_missing(study) is None
    few = build_study(CONFIG, [*trials[:6], make_trial(6, state=State.FAIL)], "cnn")
    assert measure_importance(few) == {}
    assert explain_missing(few) == "Importance needs 10 trials with a value, 4 more than these 6."


def test_trials_that_are_alike_have_no_importance():
    study = build_study(CONFIG, [make_trial(number) for number in range(12)], "cnn")
    assert explain_missing(study).startswith("All trials have the same value")
    fixed = build_study(parse({"name": "x"}), [make_trial(number) for number in range(12)], "cnn")
    assert explain_missing(fixed) == "Importance needs trials with searched parameters."

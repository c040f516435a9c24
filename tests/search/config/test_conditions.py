import math

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.commands.plan import _tabulate, count_points
from search.config.load import parse
from search.config.space import list_specs
from search.record.journal import Journal
from search.record.trial import State
from search.report.charts import build_charts
from search.report.history import build_study, measure_importance
from search.samplers.sampler import SAMPLERS
from search.study import Study
from trainables.errors import InputError

UNITS = {"choice": [16, 32], "when": {"dense_layers": [1, 2]}}
CHAIN = {
    "dense_layers": {"low": 0, "high": 2},
    "dense_units": UNITS,
    "optimizer": {"choice": ["adam", "sgd"]},
    "batch_norm": {"choice": [False, True], "when": {"dense_units": [32], "optimizer": ["sgd"]}},
}
RATE = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}


def parse_space(space, recipes=(), **search):
    settings = {"num_trials": 24, "max_epochs": 2, "num_startup_trials": 6, "architectures": ["cnn"], **search}
    return parse({"name": "x", "search": settings, "space": {"cnn": space}, "recipes": list(recipes)})


def open_study(folder, **search):
    config = parse_space(CHAIN | RATE, **search)
    return Study(config, Journal(folder / "study.journal", "x", note=print))


def run(study, limit=math.inf):
    """Run one trial after the other; stop, as if killed, after `limit` epochs."""
    trained = 0
    while (trial := study.ask()) is not None:
        stop = False
        while not stop:
            if trained >= limit:
                return
            accuracy = 0.9 - 0.1 * abs(math.log10(trial.params["learning_rate"]) + 2.5)
            accuracy += 0.01 * trial.params["dense_layers"] + trial.params.get("dense_units", 0) / 1000
            epoch = len(trial.epochs) + 1
            stop = study.report(trial.number, {"epoch": epoch, "accuracy": accuracy, "seconds": 0.5}, "cpu")
            trained += 1


def open_optuna(folder):
    return optuna.load_study(study_name="x", storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))))


def list_expected(params):
    has_units = params["dense_layers"] in (1, 2)
    has_norm = has_units and params["dense_units"] == 32 and params["optimizer"] == "sgd"
    return {*RATE, "dense_layers", "optimizer", *["dense_units"] * has_units, *["batch_norm"] * has_norm}


@pytest.mark.parametrize("sampler", [*sorted(SAMPLERS), "optuna.samplers:TPESampler"])
def test_a_parameter_is_proposed_and_recorded_where_its_condition_holds_and_only_there(tmp_path, sampler):
    study = open_study(tmp_path, sampler=sampler)
    run(study)
    trials = open_optuna(tmp_path).trials
    assert len({frozenset(trial.params) for trial in trials}) > 1
    for ours, plain in zip(study.trials, trials, strict=True):
        assert ours.state is not State.FAIL
        assert set(plain.params) == set(plain.distributions) == {f"cnn.{name}" for name in list_expected(ours.params)}
        assert not ({"dense_units", "batch_norm"} - list_expected(ours.params)) & ours.params.keys()


@pytest.mark.parametrize("sampler", [*sorted(SAMPLERS), "optuna.samplers:TPESampler"])
def test_a_killed_study_with_conditions_proposes_what_the_uncut_one_does(tmp_path, sampler):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    uncut = open_study(tmp_path / "a", sampler=sampler)
    run(uncut)
    for limit in (9, 16, math.inf):
        cut = open_study(tmp_path / "b", sampler=sampler)
        run(cut, limit)
    assert [trial.params for trial in cut.trials] == [trial.params for trial in uncut.trials]


def test_configurations_are_counted_without_the_parameters_that_are_not_searched():
    assert count_points(parse_space({name: CHAIN[name] for name in ("dense_layers", "dense_units")}).space, "cnn") == 5
    assert count_points(parse_space(CHAIN).space, "cnn") == 5 + (1 + 2 * 3)


def test_corners_are_built_where_a_condition_holds_and_only_there():
    wide = {"filters": {"low": 8, "high": 64}, "growth": {"choice": [1.0, 4.0], "when": {"num_blocks": [3]}}}
    parse_space(wide | {"num_blocks": {"low": 2, "high": 5}})
    with pytest.raises(InputError, match="corner that cannot be built"):
        parse_space({**wide, "filters": {"low": 8, "high": 256}, "num_blocks": {"low": 2, "high": 5}})


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"denselayers": [1]}, r"space.cnn.dense_units.when.denselayers: unknown parameter"),
        ({"dense_layers": ["1"]}, "when.dense_layers = '1': expected int, not str"),
        ({"dense_layers": [3]}, "when.dense_layers = 3: dense_layers never has this value in the space"),
        ({"dense_layers": []}, "expected one or more values"),
        ({"learning_rate": [0.01]}, "of a parameter with choices or whole numbers"),
        ({"dense_units": [16]}, "the conditions of dense_units form a circle"),
        ([1], "space.cnn.dense_units"),
    ],
)
def test_a_wrong_condition_is_refused(when, message):
    with pytest.raises(InputError, match=message):
        parse_space({**RATE, "dense_layers": {"low": 0, "high": 2}, "dense_units": {**UNITS, "when": when}})


def test_a_condition_may_name_a_fixed_parameter():
    assert count_points(parse_space({"dense_layers": 1, "dense_units": UNITS}).space, "cnn") == 2


def test_a_recipe_has_no_other_value_where_a_condition_does_not_hold(tmp_path):
    def write(**params):
        return {"architecture": "cnn", "params": params}

    config = parse_space(CHAIN, [write(dense_layers=0)])
    trial = Study(config, Journal(tmp_path / "study.journal", "x", note=print)).ask()
    assert trial.params["dense_layers"] == 0
    assert "dense_units" not in trial.params
    with pytest.raises(InputError, match=r"dense_units = 16, outside space.cnn.dense_units.when"):
        parse_space(CHAIN, [write(dense_layers=0, dense_units=16)])


def test_an_enqueued_point_decides_on_conditions(tmp_path):
    open_study(tmp_path)
    plain = open_optuna(tmp_path)
    plain.enqueue_trial({"cnn.dense_layers": 1})
    plain.enqueue_trial({"cnn.dense_layers": 0})
    plain.enqueue_trial({"cnn.dense_layers": 0, "cnn.dense_units": 16})
    study = open_study(tmp_path)
    run(study)
    first, second, third = study.trials[:3]
    assert first.params["dense_units"] in (16, 32)
    assert "dense_units" not in second.params
    assert third.state is State.FAIL
    assert "the condition of dense_units does not hold" in third.reason


def test_the_report_shows_trials_that_lack_a_parameter(tmp_path):
    study = open_study(tmp_path, sampler="random")
    run(study)
    history = build_study(study.config, study.trials, "cnn")
    assert len(history.trials) == 24
    assert {"learning_rate", "dense_layers"} <= measure_importance(history).keys()
    titles = [chart.title for chart in build_charts(study.config, study.trials, "cnn")]
    assert "dense_units" in titles


def test_the_plan_states_conditions():
    column = _tabulate(list_specs(parse_space(CHAIN).space, "cnn"), "cnn", {}).columns[1]
    assert "16 | 32, when dense_layers = 1 | 2" in list(column.cells)

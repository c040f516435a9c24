"""No configuration is proposed twice, whichever sampler proposes."""

import math
from collections import Counter

import pytest

from search.commands.plan import count_points
from search.config.load import parse
from search.config.schema import MANIFEST
from search.config.space import build_distributions, list_specs
from search.config.yaml import write_yaml
from search.record.journal import Journal
from search.record.manifest import list_differences, load_manifest
from search.record.trial import State, Trial
from search.report.ending import list_ending
from search.samplers.candidates import EXHAUSTED
from search.samplers.repeats import Repeats
from search.samplers.sampler import SAMPLERS
from search.study import Study

NAMES = [*sorted(SAMPLERS), "optuna.samplers:CmaEsSampler", "optuna.samplers:NSGAIISampler"]
FINITE = {
    "filters": {"low": 8, "high": 14, "step": 3},
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
    "dense_layers": {"low": 0, "high": 1},
    "dense_units": {"choice": [16, 32], "when": {"dense_layers": [1]}},
}
NUM_POINTS = 3 * 4 * (1 + 2)
RATE = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}


def build_config(space, **search):
    settings = {"num_trials": 60, "max_epochs": 1, "num_startup_trials": 5, "architectures": ["cnn"], "seed": 3}
    return parse({"name": "x", "search": settings | search, "space": {"cnn": space}})


def open_study(folder, space=FINITE, **search):
    folder.mkdir(exist_ok=True)
    return Study(build_config(space, **search), Journal(folder / "study.journal", "x", note=print))


def measure(params):
    return 0.5 + params.get("filters", 0) / 100 - abs(params.get("dropout", 0) - 0.1)


def run(study, limit=math.inf):
    """Run one trial after the other; stop, as if killed, after `limit` epochs. Return whether it came to its end."""
    for trained in range(1000):
        if trained == limit:
            return False
        if (trial := study.ask()) is None:
            return True
        study.report(trial.number, {"epoch": 1, "accuracy": measure(trial.params)}, "cpu")
    raise AssertionError("it does not end")


def list_points(study):
    return [frozenset(trial.params.items()) for trial in study.trials]


@pytest.mark.parametrize("sampler", NAMES)
def test_every_sampler_proposes_each_configuration_once_and_then_the_search_ends(tmp_path, sampler):
    study = open_study(tmp_path, sampler=sampler)
    run(study)
    assert len(study.trials) == len(set(list_points(study))) == NUM_POINTS == count_points(study.config.space, "cnn")
    assert study.halt_reason == EXHAUSTED
    assert list_ending(study.config, study.trials, study._journal) == [f"The search ended early: {EXHAUSTED}."]
    again = open_study(tmp_path, sampler=sampler)
    assert again.ask() is None
    assert again.halt_reason == EXHAUSTED
    again.halt(again.halt_reason)
    assert len(again.trials) == NUM_POINTS


@pytest.mark.parametrize("sampler", NAMES)
def test_a_killed_search_proposes_the_same(tmp_path, sampler):
    straight = open_study(tmp_path / "straight", sampler=sampler)
    run(straight)
    while not run(killed := open_study(tmp_path / "killed", sampler=sampler), 7):
        pass
    assert [trial.params for trial in killed.trials] == [trial.params for trial in straight.trials]


@pytest.mark.parametrize("sampler", NAMES)
def test_a_running_configuration_is_not_proposed_again(tmp_path, sampler):
    study = open_study(tmp_path, sampler=sampler)
    trials = [study.ask() for _ in range(NUM_POINTS)]
    assert None not in trials
    assert len(set(list_points(study))) == NUM_POINTS
    assert study.ask() is None
    assert study.halt_reason is None
    for trial in trials:
        study.report(trial.number, {"epoch": 1, "accuracy": 0.5}, "cpu")
    assert study.halt_reason == EXHAUSTED


@pytest.mark.parametrize("sampler", NAMES)
def test_with_a_continuous_parameter_nothing_changes(tmp_path, sampler):
    settings = {"space": FINITE | RATE, "sampler": sampler, "num_trials": 16}
    run(once := open_study(tmp_path / "once", **settings))
    run(twice := open_study(tmp_path / "twice", **settings, repeat=True))
    assert [trial.params for trial in once.trials] == [trial.params for trial in twice.trials]


def test_a_study_that_may_repeat_proposes_as_before(tmp_path):
    study = open_study(tmp_path, sampler="random", repeat=True)
    run(study)
    assert len(study.trials) == 60
    assert study.is_over
    assert max(Counter(list_points(study)).values()) > 1


def test_until_a_configuration_would_be_repeated_the_proposals_are_the_samplers_own(tmp_path):
    run(once := open_study(tmp_path / "once", sampler="tpe"))
    run(twice := open_study(tmp_path / "twice", sampler="tpe", repeat=True))
    points = list_points(twice)
    first = next(place for place, point in enumerate(points) if point in points[:place])
    assert list_points(once)[:first] == points[:first]
    instead, wanted = once.trials[first].params, twice.trials[first].params
    assert sum(instead.get(name) != wanted.get(name) for name in FINITE) in (1, 2)  # with the one that it decides


def build_repeats(space, size=32):
    config = build_config(space)
    specs = list_specs(config.space, "cnn")
    conditions = {name: spec.when for name, spec in specs.items() if getattr(spec, "when", None)}
    return Repeats("cnn", build_distributions(specs, "cnn"), conditions, size)


def test_the_nearest_new_point_takes_the_place():
    repeats = build_repeats({"filters": {"low": 8, "high": 11}, "head": {"choice": ["flatten", "gap"]}})
    wanted = {"filters": 8, "head": "gap"}
    assert repeats.avoid(wanted, 1) is wanted
    repeats.add(wanted)
    near = [{"filters": 9, "head": "gap"}, {"filters": 8, "head": "flatten"}]
    drawn = [repeats.avoid(wanted, seed) for seed in range(20)]
    assert all(drawn.count(point) > 3 for point in near)
    assert all(point in near for point in drawn)
    assert drawn == [repeats.avoid(wanted, seed) for seed in range(20)]
    for point in near:
        repeats.add(point)
    assert repeats.avoid(wanted, 1) in ({"filters": 10, "head": "gap"}, {"filters": 9, "head": "flatten"})


def test_parameters_without_effect_do_not_make_a_configuration_another_one():
    space = {"dense_layers": {"low": 0, "high": 1}, "dense_units": {"choice": [16, 32]}}
    repeats = build_repeats(space)
    repeats.add({"dense_layers": 0, "dense_units": 16})
    assert repeats.avoid({"dense_layers": 0, "dense_units": 32}, 0)["dense_layers"] == 1
    repeats.add({"dense_layers": 1, "dense_units": 16})
    assert repeats.avoid({"dense_layers": 1, "dense_units": 16}, 0) == {"dense_layers": 1, "dense_units": 32}
    repeats.add({"dense_layers": 1, "dense_units": 32})
    assert repeats.avoid({"dense_layers": 1, "dense_units": 16}, 0) is None


def test_a_continuous_parameter_that_becomes_active_is_drawn():
    rate = {"muon_learning_rate": {"low": 1e-3, "high": 1e-1, "log": True, "when": {"optimizer": ["muon"]}}}
    repeats = build_repeats({"optimizer": {"choice": ["adam", "muon"]}, **rate})
    repeats.add({"optimizer": "adam"})
    points = [repeats.avoid({"optimizer": "adam"}, seed) for seed in range(5)]
    assert {point["optimizer"] for point in points} == {"muon"}
    assert len({point["muon_learning_rate"] for point in points}) == 5
    assert all(1e-3 <= point["muon_learning_rate"] <= 1e-1 for point in points)


def test_steps_of_a_number_are_recognised_in_any_spelling():
    repeats = build_repeats({"dropout": {"low": 0.0, "high": 0.3, "step": 0.1}})
    for value in (0.0, 0.1, 0.2):
        repeats.add({"dropout": value})
    last = repeats.avoid({"dropout": 0.1}, 0)
    assert last["dropout"] == pytest.approx(0.3)
    repeats.add({"dropout": 0.1 + 0.2})
    assert repeats.avoid({"dropout": 0.1}, 0) is None


def test_an_architecture_without_a_configuration_leaves_its_trials_to_the_other(tmp_path):
    space = {"cnn": {"filters": {"choice": [8, 16]}}, "resnet50": RATE}
    config = parse({"name": "x", "search": {"num_trials": 10, "max_epochs": 1, "scheduler": "none"}, "space": space})
    study = Study(config, Journal(tmp_path / "study.journal", "x", note=print))
    run(study)
    assert study.is_over
    assert Counter(trial.architecture for trial in study.trials) == {"cnn": 2, "resnet50": 8}


def test_a_failed_configuration_is_not_proposed_again(tmp_path):
    study = open_study(tmp_path, {"filters": {"choice": [8, 16]}})
    study.fail(study.ask().number, "its worker broke down")
    study.fail(study.ask().number, "it failed otherwise")
    assert study.ask() is None


@pytest.mark.parametrize(
    ("reason", "lacked"),
    [
        ("out of GPU memory: grant its architecture a larger share", True),
        ("MemoryError: ", True),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", True),
        ("its worker broke down 3 times, last: killed due to the node running low on memory", True),
        ("loss is nan in epoch 1", False),
        (None, False),
    ],
)
def test_a_trial_that_lacked_memory_is_told_by_its_reason(reason, lacked):
    assert Trial(number=0, architecture="cnn", params={}, state=State.FAIL, reason=reason).lacked_memory is lacked


@pytest.mark.parametrize("limit", [None, 9])
@pytest.mark.parametrize("sampler", ["tpe", "tpe_multivariate", "tpe_tame", "gp_rungs"])
def test_where_the_memory_was_too_small_fewer_trials_follow(tmp_path, sampler, limit):
    def search(folder, reason, **settings):
        settings |= {"sampler": sampler, "num_trials": 40}
        space = {"filters": {"low": 8, "high": 64}, **RATE}
        study = open_study(folder, space, **settings)
        for count in range(40):
            if count == limit:
                study = open_study(folder, space, **settings)
            trial = study.ask()
            if trial.params["filters"] > 32:
                study.fail(trial.number, reason)
            else:
                study.report(trial.number, {"epoch": 1, "accuracy": measure(trial.params)}, "cpu")
        return [trial.params for trial in study.trials]

    without = search(tmp_path / "other", "loss is nan in epoch 1")
    avoiding = search(tmp_path / "memory", "out of GPU memory")
    large = [sum(params["filters"] > 32 for params in found) for found in (without, avoiding)]
    assert large[1] < 0.7 * large[0]
    allowed = search(tmp_path / "as_before", "out of GPU memory", repeat=True)
    assert allowed == without


def test_a_study_of_before_continues_as_it_began(tmp_path, describe_record):
    record = describe_record(build_config(FINITE))
    now = dict(record, config=record["config"] | {"search": dict(record["config"]["search"])})
    del record["config"]["search"]["repeat"]
    write_yaml(tmp_path / MANIFEST, record)
    before = load_manifest(tmp_path)
    assert parse(before["config"]).search.repeat
    assert list_differences(before, now) == ["search.repeat: True became False"]

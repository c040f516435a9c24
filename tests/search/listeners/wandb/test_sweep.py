"""A study's space in W&B's words."""

import pytest

from search.config.load import parse
from search.listeners.wandb.sweep import METHODS, describe_sweep
from search.samplers.sampler import SAMPLERS


def describe(space, **search):
    return describe_sweep(parse({"name": "demo", "space": space, "search": search}))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (
            {"cnn": {"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}}},
            {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1},
        ),
        ({"cnn": {"learning_rate": {"low": 0.001, "high": 1}}}, {"distribution": "uniform", "min": 0.001, "max": 1.0}),
        (
            {"shared": {"learning_rate": {"low": 0.25, "high": 1, "step": 0.25}}},
            {"distribution": "q_uniform", "min": 0.25, "max": 1.0, "q": 0.25},
        ),
        ({"cnn": {"learning_rate": {"choice": [0.1, 0.2]}}}, {"values": [0.001, 0.1, 0.2]}),
    ],
)
def test_a_parameter_keeps_its_bounds_and_scale(space, expected):
    assert describe(space)["parameters"]["learning_rate"] == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"low": 8, "high": 64}, {"distribution": "int_uniform", "min": 8, "max": 64}),
        ({"low": 8, "high": 64, "step": 8}, {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8}),
        ({"low": 8, "high": 64, "log": True}, {"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 1}),
    ],
)
def test_integers_stay_integers(spec, expected):
    assert describe({"cnn": {"filters": spec}})["parameters"]["filters"] == expected


def test_a_parameter_of_two_architectures_spans_both():
    space = {
        "cnn": {"batch_size": {"low": 32, "high": 128}},
        "resnet50": {"batch_size": {"choice": [64, 256]}},
    }
    parameters = describe(space)["parameters"]
    assert parameters["batch_size"] == {"distribution": "int_uniform", "min": 32, "max": 256}
    assert parameters["architecture"] == {"values": ["cnn", "resnet50"]}


def test_what_one_architecture_fixes_is_within_the_other_ones_range():
    parameters = describe({"cnn": {"batch_size": {"low": 32, "high": 64}}, "resnet50": {"batch_size": 16}})[
        "parameters"
    ]
    assert parameters["batch_size"] == {"distribution": "int_uniform", "min": 16, "max": 64}


def test_the_sweep_says_who_proposes_and_who_stops():
    sweep = describe({}, sampler="tpe", scheduler="asha", grace_epochs=2, reduction_factor=4)
    assert sweep["metric"] == {"name": "best_accuracy", "goal": "maximize"}
    assert sweep["method"] == "bayes"
    assert "Optuna (tpe)" in sweep["description"]
    assert "ASHA (grace_epochs 2, reduction_factor 4)" in sweep["description"]
    assert "early_terminate" not in sweep
    assert "Hyperband (grace_epochs 1, reduction_factor 3)" in describe({}, scheduler="hyperband")["description"]
    assert "stopped by the median rule (grace_epochs 4)" in describe({}, scheduler="median")["description"]
    assert "none is stopped early" in describe({}, scheduler="none")["description"]


def test_every_sampler_has_a_word():
    assert METHODS.keys() == SAMPLERS.keys()


def test_the_description_names_the_parameters_that_have_a_condition():
    space = {"dense_layers": {"choice": [0, 1]}, "dense_units": {"low": 8, "high": 64, "when": {"dense_layers": [1]}}}
    told = describe({"cnn": space})["description"]
    assert told.endswith(
        "for each architecture by itself. Only trials that meet its condition have a value of dense_units."
    )
    assert "condition" not in describe({"cnn": {**space, "dense_units": 64}})["description"]

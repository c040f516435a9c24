import pytest

from search.commands.plan import count_points, describe_budget, estimate_epochs, list_repetitions
from search.config.load import parse
from search.config.space import build_distributions, list_specs
from search.samplers.sampler import Sampler


def test_the_estimate_counts_all_epochs_of_trials_that_are_spared():
    search = {"num_trials": 10, "max_epochs": 9, "spare_first": True, "first": ["a"], "grace_epochs": 1}
    study = parse({"name": "x", "search": search, "recipes": [{"architecture": "cnn"}]})
    assert estimate_epochs(study) == (9 + 9 * 1 + 3 * 2 + 1 * 6, 90)


TWO_LENGTHS = {"num_trials": 12, "max_epochs": {"cnn": 9, "resnet50": 3}}


@pytest.mark.parametrize(
    ("search", "epochs"),
    [
        ({"num_trials": 9, "max_epochs": 9, "scheduler": "none"}, (81, 81)),
        ({"num_trials": 9, "max_epochs": 9, "grace_epochs": 1}, (9 * 1 + 3 * 2 + 1 * 6, 81)),
        ({"num_trials": 9, "max_epochs": 9}, (9 * 3 + 3 * 6, 81)),
        ({"num_trials": 9, "max_epochs": 9, "scheduler": "asha", "max_total_epochs": 12}, (12, 12)),
        ({"num_trials": 2, "max_epochs": 9, "grace_epochs": 1}, (2 + 2 + 6, 18)),
        ({"num_trials": 11, "max_epochs": 9, "scheduler": "hyperband"}, ((6 + 2 * 2 + 6) + (3 * 3 + 6) + 2 * 9, 99)),
        ({"num_trials": 9, "max_epochs": 9, "scheduler": "median"}, (81, 81)),
        ({**TWO_LENGTHS, "shares": {"cnn": 9, "resnet50": 3}}, (9 * 3 + 3 * 6 + 3 * 1 + 1 * 2, 9 * 9 + 3 * 3)),
        ({**TWO_LENGTHS, "divide": "seconds"}, (6 * 3 + 2 * 6 + 6 * 1 + 2 * 2, 12 * 9)),
    ],
)
def test_the_estimate_lets_one_in_reduction_factor_survive_each_rung(search, epochs):
    assert estimate_epochs(parse({"name": "x", "search": search})) == epochs


@pytest.mark.parametrize(
    ("search", "more", "told"),
    [
        ({"max_concurrent": 4, "grace_epochs": 1}, {}, "about 5 full trainings on 4 slots; first rung at epoch 1"),
        ({"max_concurrent": 1, "max_hours": 2}, {}, "at most 10 full trainings on 1 slot; first rung at epoch 3"),
        ({"scheduler": "none"}, {"cluster": {"cpus": 3}}, "about 18 full trainings on 3 slots"),
        ({}, {"resources": {"cnn": {"gpus": 1}}}, "about 10 full trainings; first rung at epoch 3"),
        ({"max_epochs": {"cnn": 12, "resnet50": 6}}, {"cluster": {"address": "auto"}}, "epoch 4 or 2"),
    ],
)
def test_the_plan_says_what_the_budget_is_worth(search, more, told):
    study = parse({"name": "x", "search": {"num_trials": 18, "max_epochs": 9} | search} | more)
    assert describe_budget(study, estimate_epochs(study)[0]).endswith(told)


FINITE = {
    "learning_rate": {"choice": [0.001, 0.01, 0.1]},
    "filters": {"low": 8, "high": 14, "step": 3},
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
}


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"architectures": ["cnn"], "num_trials": 36}, []),
        (
            {"architectures": ["cnn"], "num_trials": 37},
            ["cnn has 36 distinct configurations, fewer than its share of 37 trials"],
        ),
        ({"num_trials": 2}, []),
        (
            {"num_trials": 3, "shares": {"cnn": 1, "resnet50": 2}},
            ["resnet50 has 1 distinct configuration, fewer than its share of 2 trials"],
        ),
        ({"num_trials": 37, "divide": "epochs"}, []),
        (
            {"num_trials": 38, "divide": "epochs"},
            ["the study has 37 distinct configurations, fewer than its share of 38 trials"],
        ),
    ],
)
def test_the_plan_says_where_there_are_more_trials_than_points(search, told):
    study = parse({"name": "x", "search": search, "space": {"cnn": FINITE}})
    then = ": each is trained at most once; search.repeat=true allows more"
    assert list_repetitions(study) == [f"Space: {sentence}{then}" for sentence in told]
    study = parse({"name": "x", "search": {**search, "repeat": True}, "space": {"cnn": FINITE}})
    then = ": some are trained more than once"
    assert list_repetitions(study) == [f"Space: {sentence}{then}" for sentence in told]


def test_a_space_in_which_a_number_has_no_step_has_no_end():
    space = {"cnn": FINITE | {"weight_decay": {"low": 0.0, "high": 0.1}}}
    search = {"architectures": ["cnn"], "num_trials": 9999}
    assert list_repetitions(parse({"name": "x", "search": search, "space": space})) == []


def test_points_that_differ_in_parameters_without_effect_are_one():
    cnn = {
        "dense_layers": {"low": 0, "high": 2},
        "dense_units": {"choice": [64, 128]},
        "flip": {"choice": [True, False]},
    }
    space = {
        "cnn": cnn,
        "resnet50": {"weights": {"choice": ["none", "imagenet"]}, "trainable_stages": {"low": 1, "high": 5}},
    }
    assert count_points(parse({"name": "x", "space": space}).space, "cnn") == 2 * (1 + 2 + 2)
    assert count_points(parse({"name": "x", "space": space}).space, "resnet50") == 1 + 5
    rate = {"optimizer": {"choice": ["adam", "muon"]}, "muon_learning_rate": {"choice": [0.01, 0.02, 0.04]}}
    assert count_points(parse({"name": "x", "space": {"shared": rate}}).space, "cnn") == 1 + 3
    growth = {"growth": {"low": 1.0, "high": 2.0}}
    assert count_points(parse({"name": "x", "space": {"cnn": growth | {"num_blocks": 1}}}).space, "cnn") == 1
    assert (
        count_points(parse({"name": "x", "space": {"cnn": growth | {"num_blocks": {"choice": [1, 2]}}}}).space, "cnn")
        is None
    )


def test_the_points_are_those_that_a_sampler_proposes():
    space = parse({"name": "x", "space": {"cnn": FINITE}}).space
    sampler = Sampler("random", build_distributions(list_specs(space, "cnn"), "cnn"), seed=0, startup=1)
    assert len({tuple(sampler.propose(number).values()) for number in range(400)}) == count_points(space, "cnn") == 36

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.config.space import Choice, Range, build_distributions, contains, list_specs
from search.config.space_checks import check_space
from trainables.config import build_train_config
from trainables.errors import InputError
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model, count_parameters


def refuse(**cnn):
    with pytest.raises(InputError) as caught:
        check_space({"cnn": cnn}, ["cnn"])
    return str(caught.value)


def test_an_architecture_overrides_what_is_shared():
    space = {"shared": {"learning_rate": 0.1, "flip": True}, "cnn": {"learning_rate": 0.2}}
    assert list_specs(space, "cnn")["learning_rate"] == 0.2
    assert list_specs(space, "resnet50")["learning_rate"] == 0.1
    assert list_specs(space, "cnn")["flip"] is True


def test_the_paper_cnn_is_a_point_of_the_space_with_141345_parameters():
    params = {name: spec for name, spec in list_specs({}, "cnn").items() if not isinstance(spec, Range | Choice)}
    config = build_train_config("cnn", params, epochs=1, seed=0)
    assert config.model == CnnConfig()
    assert count_parameters(build_model(config.model)) == 141_345


def test_specs_become_distributions_of_the_fields_type():
    specs = {
        "filters": Range(low=8, high=64, log=True),
        "dropout": Range(low=0, high=0.5),
        "head": Choice(choice=("gap",)),
    }
    assert build_distributions(specs | {"growth": 1.0}, "cnn") == {
        "dropout": FloatDistribution(0, 0.5),
        "filters": IntDistribution(8, 64, log=True),
        "head": CategoricalDistribution(("gap",)),
    }


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("learning_rate", Choice(choice=("1e-3", 0.1)), "learning_rate = '1e-3': expected float, not str"),
        ("filters", Range(low=8.5, high=64), "filters = 8.5: expected int, not float"),
        ("flip", 1, "flip = 1: expected bool, not int"),
        ("head", "gpa", "head = 'gpa': expected one of flatten, gap"),
        ("precision", "half", "precision = 'half': expected one of auto, float32, bfloat16"),
        ("filters", Range(low=64, high=8), "expected low below high"),
        ("filters", Range(low=8, high=float("inf")), "both finite"),
        ("dropout", Range(low=0.0, high=0.5, log=True), "log needs low above 0"),
        ("dropout", Range(low=0.0, high=0.5, step=0.0), "expected a step above 0"),
        ("num_blocks", Range(low=2, high=6), "has a corner that cannot be built: num_blocks = 6: expected 1 to 5"),
        ("filters", Choice(choice=(8, 8)), "expected distinct choices"),
        ("filters", Range(low=8, high=2**62), f"filters = {2**62}: expected a finite number up to 1e+300, or a whole"),
        ("dropout", Range(low=-1e305, high=0.5), "dropout = -1e+305: expected a finite number up to 1e+300"),
        (
            "learning_rate",
            Choice(choice=(0.1, 10**20)),
            f"learning_rate = {10**20}: expected a finite number up to 1e+300",
        ),
        ("dense_units", 2**60, f"dense_units = {2**60}: expected a finite number up to 1e+300"),
    ],
)
def test_a_bad_spec_is_refused_with_its_path(name, spec, message):
    found = refuse(**{name: spec})
    assert message in found
    assert "space.cnn" in found


def test_a_corner_that_only_two_parameters_make_together_is_found():
    message = refuse(filters=Range(low=16, high=256), growth=Choice(choice=(1.0, 4.0)), num_blocks=Range(low=2, high=5))
    assert "at most 2048 channels" in message


def test_an_unreachable_value_is_not_in_the_space():
    assert contains(Range(low=0.0, high=1.0, step=0.25), 0.5)
    assert not contains(Range(low=0.0, high=1.0, step=0.25), 0.3)
    assert not contains(Range(low=0, high=1), True)
    assert contains(Choice(choice=(1, 2)), 2)
    assert not contains(Choice(choice=(1, 2)), 2.0)
    assert not contains(True, 1)


@pytest.mark.parametrize("batch_size", [1, Range(low=1, high=8), Choice(choice=(1, 64))])
def test_a_batch_of_one_image_is_refused_where_a_model_of_the_space_cannot_train_on_it(batch_size):
    check_space({"shared": {"batch_size": batch_size}}, ["cnn"])
    check_space({"resnet50": {"batch_size": batch_size, "stem": "cifar"}}, ["resnet50"])
    sizes = {"input_size": Choice(choice=(64, 32))}
    for model in ({}, sizes):
        with pytest.raises(InputError, match="batch_size = 1: expected at least 2") as caught:
            check_space({"resnet50": {"batch_size": batch_size, **model}}, ["resnet50"])
        assert "space.resnet50 has a corner" in str(caught.value)

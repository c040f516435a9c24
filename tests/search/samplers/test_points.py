import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from search.config.conditions import drop_inactive
from search.samplers.points import Points

SPACE = {
    "blocks": IntDistribution(1, 4),
    "filters": IntDistribution(8, 64, log=True),
    "mixup": FloatDistribution(0.0, 0.6, step=0.2),
    "norm": CategoricalDistribution((False, True)),
    "optimizer": CategoricalDistribution(("adam", "sgd", 1, 1.5)),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "momentum": FloatDistribution(0.0, 1.0),
    "nesterov": CategoricalDistribution((False, True)),
}
CONDITIONS = {"momentum": {"optimizer": ("sgd", 1)}, "nesterov": {"momentum": (0.0, 1.0), "blocks": (2, 4)}}
SIMPLE = {name: SPACE[name] for name in ("filters", "norm", "optimizer", "rate")}


def make_trial(space, params):
    return create_trial(state=TrialState.RUNNING, params=params, distributions={name: space[name] for name in params})


def draw(space, conditions, seed=0):
    points = Points(space, conditions)
    generator = np.random.RandomState(seed)
    first = points.draw(points.read([make_trial(space, draw_one(space))]), generator)
    return points, points.draw(first[:5], generator)


def draw_one(space):
    return {
        name: each.choices[0] if isinstance(each, CategoricalDistribution) else each.low
        for name, each in space.items()
        if name not in CONDITIONS
    }


@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_in_the_space_and_have_a_parameter_only_where_its_condition_holds(seed):
    points, candidates = draw(SPACE, CONDITIONS, seed)
    written = [points.write(candidate) for candidate in candidates]
    for params in written:
        assert drop_inactive(CONDITIONS, params) == params
        assert params.keys() == drop_inactive(CONDITIONS, SPACE | params).keys() | (SPACE.keys() - CONDITIONS.keys())
        for name, value in params.items():
            assert SPACE[name]._contains(SPACE[name].to_internal_repr(value))
    assert {"momentum" in params for params in written} == {True, False}


def test_what_is_written_is_read_again():
    points, candidates = draw(SPACE, CONDITIONS)
    trials = [make_trial(SPACE, points.write(candidate)) for candidate in candidates]
    assert points.read(trials) == pytest.approx(candidates, nan_ok=True)
    assert points.read([]).shape == (0, len(SPACE))


def test_two_choices_and_the_two_ends_of_a_range_are_1_apart():
    points = Points(SIMPLE, {})
    low = {"filters": 8, "norm": False, "optimizer": "adam", "rate": 1e-4}
    trials = [low, low | {"norm": True}, low | {"optimizer": 1.5}, low | {"rate": 1e-1}, low | {"rate": 10**-2.5}]
    coordinates = points.embed(points.read([make_trial(SIMPLE, each) for each in trials]))
    assert ((coordinates[1:] - coordinates[0]) ** 2).sum(axis=1) == pytest.approx([1.0, 1.0, 1.0, 0.25])
    assert len(points.owners) == coordinates.shape[1]


def test_a_point_without_a_parameter_is_far_from_one_with_it_and_not_from_another_without_it():
    space = {"optimizer": SPACE["optimizer"], "momentum": SPACE["momentum"], "nesterov": SPACE["nesterov"]}
    points = Points(space, {name: CONDITIONS[name] for name in ("momentum", "nesterov")})
    trials = [{"optimizer": "sgd"}, {"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.5, "nesterov": True}]
    coordinates = points.embed(points.read([make_trial(space, each) for each in trials]))
    squares = ((coordinates[1:] - coordinates[0]) ** 2).sum(axis=1)
    assert squares == pytest.approx([0.0, 1.0 + 1.0])


def test_children_resemble_their_parents_more_than_random_points_do():
    points = Points(SIMPLE, {})
    parents = points.read([make_trial(SIMPLE, {"filters": 16, "norm": True, "optimizer": "sgd", "rate": 1e-3})])
    candidates = points.draw(parents, np.random.RandomState(0))
    squares = ((points.embed(candidates) - points.embed(parents)) ** 2).sum(axis=1)
    assert squares[100:].mean() < squares[:100].mean() / 1.5

import random

import numpy as np
import pytest
import torch
from torch import nn

from search.config.load import parse
from search.evaluation import cost, front
from search.evaluation.choices import choose
from search.evaluation.cost import MAX_BATCH, count_batch, count_weights, count_work, measure_cost
from search.evaluation.front import Point, find_front, list_points
from search.evaluation.result import Result
from search.record.trial import State, Trial
from search.report.charts import build_front_chart
from search.report.front import describe_uncounted, tabulate_front
from trainables.config import build_train_config
from trainables.errors import InputError
from trainables.models.model import build_model, count_parameters
from trainables.names import import_own

PICKY = """
from dataclasses import dataclass

from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1, bias=False))

    def forward(self, images):
        scale = images.mean().item()  # needs values
        return self.layers(images.mean((2, 3)) / (scale if scale > 0 else 1.0)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Picky:
    width: int = 1

    def build(self, *, size: int) -> nn.Module:
        return Net(self.width)
"""


def make_trial(number, value, *, metric="accuracy", sign=1, architecture="cnn", state=State.COMPLETE, **params):
    return Trial(
        number=number,
        architecture=architecture,
        params=params,
        epochs=[{"epoch": 1, metric: value}],
        metric=metric,
        sign=sign,
        state=state,
        attributes={"images_per_second": 100.0 + number},
    )


def make_result(config, trials):
    empty = {"manifest": {}, "models": [], "predictions": {}, "mistakes": {}, "notes": []}
    return Result(study="x", config=config, trials=trials, labels=np.zeros(0, np.uint8), **empty)


def find_by_force(points):
    def is_beaten(point):
        mine = (point.costs["parameters"], -point.trial.score)
        for other in points:
            others = (other.costs["parameters"], -other.trial.score)
            if others != mine and others[0] <= mine[0] and others[1] <= mine[1]:
                return True
        return False

    return {point.trial.number for point in points if not is_beaten(point)}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_brute_force_also_with_ties(seed, sign):
    draw = random.Random(seed)
    points = [
        Point(trial=make_trial(number, draw.randint(0, 8), sign=sign), costs={"parameters": draw.randint(1, 8)})
        for number in range(draw.randint(1, 40))
    ]
    assert {point.trial.number for point in find_front(points, "parameters")} == find_by_force(points)


def test_trials_of_unknown_cost_are_left_out():
    points = [Point(trial=make_trial(0, 0.9), costs={}), Point(trial=make_trial(1, 0.5), costs={"seconds": 0.1})]
    assert [point.trial.number for point in find_front(points, "seconds")] == [1]
    assert find_front(points, "parameters") == []


@pytest.mark.parametrize(("architecture", "params"), [("cnn", {"dense_layers": 0}), ("resnet50", {"stem": "cifar"})])
def test_parameters_are_counted_without_building_the_model(architecture, params):
    config = build_train_config(architecture, params, epochs=1, seed=0).model
    assert count_weights(config) == count_parameters(build_model(config))
    assert count_work(config, flip_average=True) == 2 * count_work(config, flip_average=False)


@pytest.mark.parametrize(
    ("params", "size", "num"),
    [
        ({}, 32, MAX_BATCH),
        ({"filters": 96, "convs_per_block": 2}, 256, 10),  # 96 x 256 x 256 numbers are 24 MiB
        ({"filters": 2048, "num_blocks": 1, "kernel_size": 1, "head": "gap", "dense_layers": 0}, 256, 1),
    ],
)
def test_fewer_images_are_predicted_at_a_time_if_a_model_needs_much_memory_for_one(monkeypatch, params, size, num):
    config = build_train_config("cnn", params, epochs=1, seed=0, size=size).model
    assert count_batch(config, size=size) == num
    monkeypatch.setattr(cost, "IMAGE_BYTES", 2**28)
    if num == 1:
        with pytest.raises(InputError, match=r"the model needs 0\.5 GB of memory for one image"):
            count_batch(config, size=size)


class Attention(nn.Module):
    """Two transformer layers of width 8 over 16 patches of 8x8 pixels."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 8, stride=8)
        layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, images):
        return self.layers(self.cut(images).flatten(2).transpose(1, 2)).mean((1, 2))

    @classmethod
    def build(cls, *, size):
        assert size == 32
        return cls()


def test_fused_layers_of_a_transformer_count_with_their_work():
    patches, width, wide = 16, 8, 16
    layer = patches * (3 * width + width + 2 * wide) * width + 2 * patches**2 * width
    work = patches * width * 3 * 8 * 8 + 2 * layer
    assert count_work(Attention, flip_average=False) == work
    config = build_train_config("cnn", {}, epochs=1, seed=0)
    assert measure_cost(Attention(), config, device=torch.device("cpu"))["macs"] == work
    assert torch.backends.mha.get_fastpath_enabled()


def test_points_are_distinct_finished_trials_and_a_vanished_parameter_does_not_end_the_report():
    config = parse({"name": "x"})
    trials = [
        make_trial(0, 0.9, filters=16),
        make_trial(1, 0.8, filters=16),  # the same configuration
        make_trial(2, 0.7, gone=3),
        make_trial(3, 0.9, state=State.FAIL, filters=8),
        make_trial(4, 0.95, architecture="resnet50"),
        Trial(number=5, architecture="foreign", params={}, state=State.FAIL),
    ]
    points = list_points(config, trials)
    assert [point.trial.number for point in points] == [0, 2, 4]
    assert [set(point.costs) for point in points][1] == {"seconds"}
    assert points[0].costs["seconds"] == pytest.approx(0.01)
    assert [point.trial.number for point in find_front(points, "parameters")] == [0, 4]
    assert "trial 4" in build_front_chart(config, trials).figure


def test_a_network_that_needs_the_values_of_its_images_is_on_a_front_of_parameters_and_the_report_says_what_it_lacks(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "picky_front.py").write_text(PICKY)
    name = "picky_front:Picky"
    import_own(name, str(tmp_path), "search.architectures")
    study = {"name": "x", "search": {"architectures": ["cnn", name]}}
    config = parse(study | {"evaluation": {"front_cost": "multiply_accumulates"}})
    trials = [
        make_trial(0, 0.9, filters=16),
        make_trial(1, 0.8, architecture=name),
        make_trial(2, 0.95, architecture=name, width=2),
        make_trial(3, 0.5, gone=3),
    ]
    points = list_points(config, trials)
    assert [point.trial.number for point in find_front(points, "parameters")] == [1, 2]
    assert [point.trial.number for point in find_front(points, "multiply_accumulates")] == [0]
    assert points[1].costs["parameters"] == 3 + 1 + 1
    picky, cnn = describe_uncounted(config, trials)
    assert picky.startswith("Picky: the multiply-accumulates of trial 1, 2 cannot be counted, so no such front has it:")
    assert cnn.startswith("cnn: the parameters and multiply-accumulates of trial 3 cannot be counted")
    [cnn] = describe_uncounted(parse(study), trials)
    assert cnn.startswith("cnn: the parameters and multiply-accumulates of trial 3 cannot be counted")


def test_work_is_counted_for_the_rows_of_the_front_alone(monkeypatch):
    counted = []
    monkeypatch.setattr(front, "count_work", lambda model, **_: counted.append(model.filters) or 1.0)
    config = parse({"name": "x"})
    trials = [make_trial(number, 0.9 - number / 100, filters=101 + number) for number in range(4)]
    [table] = tabulate_front(make_result(config, trials))
    assert ([row[0] for row in table.rows], counted) == (["0"], [101])


def test_without_a_finished_trial_there_is_no_chart():
    failed = [make_trial(0, 0.5, state=State.FAIL)]
    assert build_front_chart(parse({"name": "x"}), failed) is None
    assert build_front_chart(parse({"name": "x"}), []) is None


def test_the_front_is_chosen_besides_the_winners_and_marked():
    config = parse({"name": "x", "evaluation": {"front": True}})
    trials = [make_trial(0, 0.9, filters=16), make_trial(1, 0.8, filters=8), make_trial(2, 0.7, filters=32)]
    chosen = [point.trial.number for point in find_front(list_points(config, trials), "parameters")]
    choices = choose(config, trials, "0" * 64, chosen)
    assert [(winner.trial, winner.rank, winner.front) for winner in choices.winners] == [(0, 1, True), (1, 2, True)]
    assert choices.rule.endswith("; also the trials on the front of accuracy and parameters")
    assert choose(parse({"name": "x"}), trials, "0" * 64).winners[0].front is False

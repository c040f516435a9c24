from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainables.config import TrainConfig
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model
from trainables.models.resnet50.config import ResNet50Config
from trainables.muon import COEFFICIENTS, NUM_ITERATIONS, group_weights, orthogonalize
from trainables.optim import build_optimizer, schedule


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(8, 8), (6, 30), (30, 6), (1, 5)])
def test_singular_values_go_through_the_polynomial_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = draw(*shape)
    left, values, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    values /= np.linalg.norm(values)
    first, second, third = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        values = first * values + second * values**3 + third * values**5
    expected = torch.from_numpy(left @ np.diag(values) @ right).float()
    torch.testing.assert_close(orthogonalize(matrix), expected, rtol=1e-3, atol=1e-4)
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_matrix_of_zeros_stays_a_matrix_of_zeros() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_muon_is_that_of_pytorch_and_all_else_its_adamw() -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1))

    ours, theirs = build(), build()
    theirs.load_state_dict(ours.state_dict())
    rates = {"learning_rate": 1e-2, "muon_learning_rate": 0.05, "weight_decay": 0.1}
    optimizer = build_optimizer(TrainConfig(model=CnnConfig(), epochs=1, optimizer="muon", **rates), ours)
    schedule(optimizer, TrainConfig(model=CnnConfig(), epochs=1, **rates), progress=0.0)
    hidden, generator = theirs[2].weight, torch.Generator().manual_seed(0)
    references = [
        torch.optim.Muon([hidden], lr=0.05, weight_decay=0.1),
        torch.optim.AdamW([w for w in theirs.parameters() if w is not hidden], lr=1e-2, weight_decay=0.1, fused=True),
    ]
    for _ in range(3):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = other.grad = torch.randn(one.shape, generator=generator)
        for each in (optimizer, *references):
            each.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if other is hidden:
            torch.testing.assert_close(one, other, rtol=0.0, atol=3e-3)  # PyTorch iterates in bfloat16
        else:
            assert torch.equal(one, other), name


def test_a_convolution_learns_as_the_matrix_of_its_filters() -> None:
    weights = [nn.Parameter(draw(4, 3, 2, 2)), nn.Parameter(draw(4, 12))]
    build: Any = build_optimizer(TrainConfig(model=CnnConfig(), epochs=1, optimizer="muon"), nn.Linear(1, 1)).__class__
    optimizer = build([{"params": weights, "use_muon": True}], lr=0.1)
    for weight in weights:
        weight.grad = draw(48).view_as(weight)
    optimizer.step()
    assert torch.equal(weights[0].flatten(1), weights[1])
    assert not torch.equal(weights[1], draw(4, 12))


@pytest.mark.parametrize(
    ("config", "left_out"),
    [
        (CnnConfig(convs_per_block=2, batch_norm=True, dense_layers=2), {"0.weight", "15.7.weight"}),
        (ResNet50Config(stem="half"), {"conv1.weight", "fc.1.weight"}),
    ],
    ids=["cnn", "resnet50"],
)
def test_the_first_and_the_last_matrix_and_all_other_weights_are_left_to_adamw(config: Any, left_out: set[str]) -> None:
    model = build_model(config)
    names = {id(weight): name for name, weight in model.named_parameters()}
    hidden, others = ([names[id(weight)] for weight in group["params"]] for group in group_weights(model))
    assert {name for name in others if model.get_parameter(name).ndim > 1} == left_out
    assert {model.get_parameter(name).ndim for name in hidden} <= {2, 4}
    assert len(hidden) + len(others) == len(names)


def test_a_parameter_of_the_model_itself_is_not_taken_for_its_first_matrix() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model.places = nn.Parameter(torch.zeros(3, 2))  # of the root, so it comes first
    hidden, others = (group["params"] for group in group_weights(model))
    assert [id(weight) for weight in hidden] == [id(model[1].weight)]
    assert [id(weight) for weight in others] == [id(each) for each in (model.places, model[0].weight, model[2].weight)]


def test_a_matrix_under_a_parametrization_is_one_of_a_layer() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    nn.utils.parametrizations.orthogonal(model[1])
    [name] = [name for name, _ in model[1].named_parameters()]
    hidden, _ = (group["params"] for group in group_weights(model))
    assert name == "parametrizations.weight.original"
    assert [id(weight) for weight in hidden] == [id(model[1].get_parameter(name))]


def test_frozen_weights_are_in_no_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    [others] = group_weights(model)
    assert (others["use_muon"], len(others["params"])) == (False, 4)


def test_each_group_follows_the_schedule_from_its_own_rate() -> None:
    rates = {"learning_rate": 0.4, "muon_learning_rate": 0.1}
    config = TrainConfig(model=CnnConfig(), epochs=1, optimizer="muon", schedule="cosine", **rates)
    optimizer = build_optimizer(config, build_model(config.model))
    assert schedule(optimizer, config, 0.5) == pytest.approx(0.2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.2])

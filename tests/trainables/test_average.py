import pytest
import torch
from torch import nn

from trainables.average import copy_for_average, update_average


def draw_model(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        model(torch.rand(8, 3, 8, 8))
    return model


def test_the_average_is_the_weighted_sum_of_all_weights_and_statistics() -> None:
    models = [draw_model(seed) for seed in range(4)]
    average = copy_for_average(models[0])
    expected = {name: tensor.clone() for name, tensor in models[0].state_dict().items() if tensor.is_floating_point()}
    for step, model in enumerate(models[1:], start=10_000):
        update_average(average, model, decay=0.9, step=step)
        state = model.state_dict()
        expected = {name: 0.9 * tensor + 0.1 * state[name] for name, tensor in expected.items()}
    found = average.state_dict()
    assert {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"} == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.9), (10, 9 / 20), (10**6, 0.01)])
def test_early_steps_forget_the_random_weights(step: int, weight: float) -> None:
    start, model = draw_model(0), draw_model(1)
    average = copy_for_average(start)
    update_average(average, model, decay=0.99, step=step)
    expected = start[0].weight + weight * (model[0].weight - start[0].weight)
    torch.testing.assert_close(average[0].weight, expected.detach())


def test_the_model_is_not_touched_by_its_average() -> None:
    model = draw_model(0)
    average = copy_for_average(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    update_average(average, draw_model(1), decay=0.5, step=100)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())

import pytest
import torch
from torch import nn

from trainables.average import Average


def draw_model(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        model(torch.rand(8, 3, 8, 8))
    return model


def test_the_average_is_the_weighted_sum_of_all_weights_and_statistics() -> None:
    model = draw_model(0)
    average = Average(model, decay=0.9)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for step in range(3):
        state = draw_model(step + 1).state_dict()
        model.load_state_dict(state)
        average.update(10_000 + step)
        expected = {name: 0.9 * tensor + 0.1 * state[name] for name, tensor in expected.items()}
    found = average.model.state_dict()
    assert {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"} == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.9), (10, 9 / 20), (10**6, 0.01)])
def test_early_steps_forget_the_random_weights(step: int, weight: float) -> None:
    start, model = draw_model(0), draw_model(0)
    average = Average(model, decay=0.99)
    model.load_state_dict(draw_model(1).state_dict())
    average.update(step)
    expected = start[0].weight + weight * (model[0].weight - start[0].weight)
    torch.testing.assert_close(average.model.get_parameter("0.weight"), expected.detach())


def test_the_model_is_not_touched_by_its_average() -> None:
    model = draw_model(0)
    average = Average(model, decay=0.5)
    model.load_state_dict(draw_model(1).state_dict())
    average.update(100)
    other = draw_model(1).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())

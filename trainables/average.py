"""Exponential moving average of a model's weights, which scores better than the last step's."""

import copy

import torch
from torch import Tensor, nn


def copy_for_average(model: nn.Module) -> nn.Module:
    """Return a copy of a model for its average to be kept in; it does not learn by itself."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """Draw the average towards the model's weights and batch-norm statistics, in place.

    Early steps decay faster, min(decay, (1 + step) / (10 + step)), so the random weights of the start are soon
    forgotten, however short the training is.

    Args:
        average: What `copy_for_average` returned.
        model: The model, after its step.
        decay: Weight of the average in the new average, in [0, 1).
        step: Steps done before this one, from 0.

    Source: Polyak and Juditsky 1992; the decay of early steps is that of TensorFlow's ExponentialMovingAverage.
    """
    weight = 1.0 - min(decay, (1 + step) / (10 + step))
    # One launch for all tensors on CUDA; torch.optim.swa_utils does the same, but asks the device at each step.
    torch._foreach_lerp_(_list_floats(average), _list_floats(model), weight)


def _list_floats(model: nn.Module) -> list[Tensor]:
    tensors = (*model.parameters(), *model.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]

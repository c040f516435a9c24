"""Exponential moving average of a model's weights, which scores better than the weights of the last step."""

import copy

import torch
from torch import Tensor, nn


class Average:
    """Average of a training model's weights and batch-norm statistics."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Start with a copy of the model.

        Args:
            model: On its device; its tensors must stay at their addresses.
            decay: Weight of the old average in the new one, in [0, 1).
        """
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay
        # Listed once, because listing those of a ResNet-50 takes half a millisecond.
        self._tensors = _list_floats(self.model), _list_floats(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model's weights, in place, after a step.

        The decay of early steps is smaller, min(decay, (1 + step) / (10 + step)), so that the initial random weights
        fade even in a short training.

        Args:
            step: Number of steps before this one.

        Source: Polyak and Juditsky 1992; the early decay is that of TensorFlow's ExponentialMovingAverage.
        """
        weight = 1.0 - min(self._decay, (1 + step) / (10 + step))
        # One launch for all tensors on CUDA; torch.optim.swa_utils does the same but waits for the device at each step.
        torch._foreach_lerp_(*self._tensors, weight)


def _list_floats(model: nn.Module) -> list[Tensor]:
    tensors = (*model.parameters(), *model.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]

"""Exponential moving average of a model's weights, which scores better than the last step's."""

import copy

import torch
from torch import Tensor, nn


class Average:
    """The average of a model that learns: of its weights and its batch-norm statistics."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Start from the model as it is.

        Args:
            model: On its device; its tensors are to stay where they are.
            decay: Weight of the average in the new average, in [0, 1).
        """
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay
        # Listed once: to walk through a ResNet-50 takes half a millisecond.
        self._tensors = _list_floats(self.model), _list_floats(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Draw the average towards the model, in place, after a step.

        Early steps decay faster, min(decay, (1 + step) / (10 + step)), so the random weights of the start are soon
        forgotten, however short the training is.

        Args:
            step: Steps done before this one, from 0.

        Source: Polyak and Juditsky 1992; the decay of early steps is that of TensorFlow's ExponentialMovingAverage.
        """
        weight = 1.0 - min(self._decay, (1 + step) / (10 + step))
        # One launch for all tensors on CUDA; torch.optim.swa_utils does the same, but asks the device at each step.
        torch._foreach_lerp_(*self._tensors, weight)


def _list_floats(model: nn.Module) -> list[Tensor]:
    tensors = (*model.parameters(), *model.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]

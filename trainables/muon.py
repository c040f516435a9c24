"""Muon: orthogonal updates of the hidden weight matrices, and AdamW for all other weights, as one optimizer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
"""Momentum and Newton-Schulz iteration. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon."""


class Muon(torch.optim.Optimizer):
    """Muon for the hidden matrices of `group_weights`, AdamW for its other group; both decay weights as AdamW does.

    torch.optim.Muon takes no convolutions, and it reads its rate on the host, which is not possible in a CUDA graph.
    """

    def __init__(self, params: Any, *, lr: float, weight_decay: float = 0.0, fused: bool = True) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "use_muon": False, "fused": fused})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 PyTorch's name
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if group["use_muon"]:
                self._step_muon(group, weights)
            else:
                self._step_adamw(group, weights)

    def _step_muon(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        """Update matrices (rows, columns) and convolutions (rows, channels, height, width)."""
        for weight, momentum in zip(weights, self._list_averages(weights, "momentum_buffer"), strict=True):
            # Always a tensor, so that a recorded step computes the same as a plain one.
            rate = torch.as_tensor(group["lr"], dtype=torch.float32, device=weight.device)
            assert weight.grad is not None
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            update = orthogonalize(weight.grad.lerp(momentum, MOMENTUM).flatten(1))
            scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            weight.mul_(1 - rate * group["weight_decay"])
            weight.sub_(update.view_as(weight) * (rate * scale))

    def _step_adamw(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            self.state[weight].setdefault("step", torch.zeros((), device=weight.device))
        adamw(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            self._list_averages(weights, "exp_avg"),
            self._list_averages(weights, "exp_avg_sq"),
            [],
            [self.state[weight]["step"] for weight in weights],
            fused=group["fused"],
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _list_averages(self, weights: list[Tensor], name: str) -> list[Tensor]:
        """Return a moving average of each weight's gradients, zero before the first step."""
        for weight in weights:
            if name not in self.state[weight]:
                self.state[weight][name] = torch.zeros_like(weight)
        return [self.state[weight][name] for weight in weights]


def group_weights(model: nn.Module) -> list[dict[str, Any]]:
    """Return the weights that learn in groups for `Muon`: hidden matrices and convolutions, and the others.

    AdamW updates the first and the last matrix of the model, biases and normalisation, as in Jordan et al.: inputs and
    outputs of a network are not hidden features, so the size of an orthogonal update does not suit them. A parameter
    without `weight` in its name, such as an embedding of positions, is no matrix of a layer.
    """
    matrices = [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim in (2, 4) and "weight" in ".".join(name.split(".")[-2:])  # also under a parametrization
    ]
    hidden = {id(weight) for weight in matrices[1:-1]}
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in learning if (id(weight) in hidden) is use_muon], "use_muon": use_muon}
        for use_muon in (True, False)
    ]
    return [group for group in groups if group["params"]]


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix (rows, columns) with the singular vectors of the given one, and singular values near 1.

    On CUDA it is computed in bfloat16, as in the source.

    Source: Jordan et al. 2024, newtonschulz5.
    """
    first, second, third = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found = (wide / wide.norm().clamp(min=1e-7)).to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    for _ in range(NUM_ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=second, alpha=third), found, beta=first)
    result: Tensor = found if wide is matrix else found.T
    return result.to(matrix.dtype)

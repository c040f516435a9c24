"""The last layers of every model: from features to one logit."""

import torch
from torch import Tensor, nn


class Logit(nn.Linear):
    """A last layer that computes in float32 under autocast too.

    A bfloat16 logit has 8 significant bits, so different images would tie in the AUROC.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, F) to (N, 1) float32."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def build_head(features: int, hidden: list[int], dropout: float) -> nn.Sequential:
    """Build dense layers from features (N, features) to logits (N,), with dropout in front of each.

    Args:
        features: Width of the input.
        hidden: Width of each hidden layer, each followed by ReLU; may be empty.
        dropout: Probability of dropping an input of a layer, in [0, 1).
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Dropout(dropout), nn.Linear(features, width), nn.ReLU(inplace=True)]
        features = width
    return nn.Sequential(*layers, nn.Dropout(dropout), Logit(features, 1), nn.Flatten(0))

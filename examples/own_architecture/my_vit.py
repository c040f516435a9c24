"""A small vision transformer. An architecture is a frozen dataclass with `build`; a search chooses its fields."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Vit:
    """A small vision transformer."""

    patch: int = 4
    """Side of a patch in pixels."""
    depth: int = 4
    """Number of blocks."""
    width: int = 48
    """Length of a patch's vector, a multiple of 4."""

    def build(self, *, size: int) -> nn.Module:
        """Build the network for images of size x size pixels."""
        return VitNet(self, size)


class VitNet(nn.Module):
    """Maps images (N, 3, size, size) to logits (N,)."""

    def __init__(self, config: Vit, size: int) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.places = nn.Parameter(0.02 * torch.randn((size // config.patch) ** 2, config.width))
        block = nn.TransformerEncoderLayer(
            config.width, nhead=4, dim_feedforward=2 * config.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, config.depth, enable_nested_tensor=False)
        self.head = nn.Linear(config.width, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        patches = self.cut(images).flatten(2).transpose(1, 2)
        return self.head(self.blocks(patches + self.places).mean(1)).squeeze(1)

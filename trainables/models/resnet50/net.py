"""torchvision's ResNet-50 with a single-logit head, a choice of stem, and stages that can be frozen."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck

from trainables.models.head import build_head
from trainables.models.resnet50.config import ResNet50Config

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of the inputs for torchvision's weights. Source: torchvision.transforms, ImageClassification."""


class ResNet50(ResNet):
    """ResNet-50 (He et al. 2016, arXiv:1512.03385, table 1); its weights have torchvision's names."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ResNet50Config, size: int) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=1)
        if config.stem != "imagenet":
            stride = 2 if config.stem == "half" else 1
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=stride, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.add_module("maxpool", nn.Identity())
        hidden = [config.hidden_units] * config.hidden_layers
        self.add_module("fc", build_head(4 * 512, hidden, config.dropout))
        self.input_size = config.input_size if config.input_size > size else None
        self.is_pretrained = config.weights != "none"
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        stem = [self.conv1, self.bn1] if config.stem == "imagenet" else []
        stages: list[list[nn.Module]] = [[self.layer4], [self.layer3], [self.layer2], [self.layer1], stem]
        loaded = stages[config.trainable_stages :] if self.is_pretrained else []
        self.frozen = [module for stage in loaded for module in stage]
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages stay in evaluation mode, so their batch-norm statistics do not change."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, size, size) in [0, 1] to logits (N,).

        Inputs are in [0, 1] as in the paper; for pretrained weights they are normalised as in the pretraining.
        """
        if self.is_pretrained:
            images = (images - self.mean) / self.std
        if self.input_size is not None:
            images = functional.interpolate(images, size=self.input_size, mode="bilinear")
        logits: Tensor = super().forward(images)
        return logits

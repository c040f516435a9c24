"""torchvision's ResNet-50 with a single-logit head, a choice of stem, and stages that can be frozen."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet, ResNet50_Weights
from torchvision.models.resnet import Bottleneck

from trainables.config import IMAGE_SIZE, ResNet50Config
from trainables.errors import InputError
from trainables.models.cnn import build_head

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics that torchvision's weights were trained with. Source: torchvision.transforms, ImageClassification."""


IMAGENET = ResNet50_Weights.IMAGENET1K_V2


class ResNet50(ResNet):
    """ResNet-50 (He et al. 2016, arXiv:1512.03385, table 1), names of weights as in torchvision."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ResNet50Config) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=1)
        if config.stem == "cifar":
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.add_module("maxpool", nn.Identity())
        hidden = [config.hidden_units] * config.hidden_layers
        self.add_module("fc", build_head(4 * 512, hidden, config.dropout))
        self.input_size = config.input_size
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
        """Set the mode; frozen stages stay in evaluation mode, so their batch-norm statistics stay as they are."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) in [0, 1] to logits (N,).

        The paper feeds [0, 1]; pretrained weights get the statistics they were trained with.
        """
        if self.is_pretrained:
            images = (images - self.mean) / self.std
        if self.input_size != IMAGE_SIZE:
            images = functional.interpolate(images, size=self.input_size, mode="bilinear")
        logits: Tensor = super().forward(images)
        return logits


def load_initial(model: nn.Module, config: ResNet50Config) -> None:
    """Load the weights that training starts from; the head, and a stem of another shape than ImageNet's, start anew.

    Raises:
        InputError: If they cannot be fetched, found or loaded.
    """
    stored = _fetch_imagenet() if config.weights == "imagenet" else _read_state(Path(config.weights).expanduser())
    fresh = ("fc.", "conv1.") if config.stem == "cifar" else ("fc.",)
    stored = {name: tensor for name, tensor in stored.items() if not name.startswith(fresh)}
    initial = model.state_dict()
    needed = {name: tensor for name, tensor in initial.items() if not name.startswith(fresh)}
    if wrong := sorted({name for name, _ in _list_shapes(stored) ^ _list_shapes(needed)}):
        raise InputError(
            f"weights = {config.weights!r}: {len(wrong)} tensors are missing, unknown or of another shape than "
            f"ResNet-50's, {wrong[0]} the first; use `weights: none` or the path of a ResNet-50's state dict"
        )
    model.load_state_dict(initial | stored)


def _list_shapes(state: Mapping[str, Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(tensor.shape)) for name, tensor in state.items()}


def _fetch_imagenet() -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = IMAGENET.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"weights = 'imagenet': {IMAGENET.url} cannot be fetched ({error}); "
            "use `weights: none` or `weights:` with the path of a state dict"
        ) from error
    return state


def _read_state(path: Path) -> Mapping[str, Tensor]:
    cure = "use `weights: none`, `weights: imagenet` or the path of a ResNet-50's state dict"
    if not path.is_file():
        raise InputError(f"weights = '{path}': no such file; {cure}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"weights = '{path}': not a file of tensors that torch.save wrote; {cure}") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"weights = '{path}': not a state dict (tensors by name); {cure}")
    return state

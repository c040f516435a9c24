"""Models by name: each maps float images (N, 3, 32, 32) in [0, 1] to logits (N,) float32, above 0 for REAL."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import ModelConfig, ResNet50Config
from trainables.models.cnn import build_cnn
from trainables.runtime import seed_block


def _build_resnet50(config: ResNet50Config) -> nn.Module:
    from trainables.models.resnet import ResNet50  # torchvision takes two seconds to import, and a CNN needs none of it

    return ResNet50(config)


MODELS: dict[str, Callable[[Any], nn.Module]] = {"cnn": build_cnn, "resnet50": _build_resnet50}
"""Architecture, as in its configuration, to what builds it from that configuration."""


def build_model(config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """Build a model on the CPU; the same configuration and seed give the same weights.

    Raises:
        InputError: If the initial weights cannot be fetched, found or loaded.
    """
    with seed_block(seed, torch.device("cpu")):
        model = MODELS[config.architecture](config)
    if isinstance(config, ResNet50Config) and config.weights != "none":
        from trainables.models.resnet import load_initial

        load_initial(model, config)
    return model


def restore_model(config: ModelConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a trained model on the CPU; the weights it once started from are not needed.

    Shapes are compared before anything is built, so that a model takes no more memory than its weights do.

    Raises:
        RuntimeError: If the weights are not of such a model.
    """
    with torch.device("meta"):
        outline = MODELS[config.architecture](config).state_dict()
    if {name: tensor.shape for name, tensor in outline.items()} != {n: tensor.shape for n, tensor in weights.items()}:
        raise RuntimeError("the weights have other names or shapes")
    with seed_block(0, torch.device("cpu")):
        model = MODELS[config.architecture](config)
    model.load_state_dict(weights)
    return model


def fetch_weights(config: ModelConfig) -> None:
    """Fetch and check the initial weights that a model starts from, so that no trial has to fail for them.

    Raises:
        InputError: If they cannot be fetched, found or loaded; the message names the ways out.
    """
    if isinstance(config, ResNet50Config) and config.weights != "none":
        build_model(config)


def locate_imagenet() -> Path:
    """Return where torchvision keeps its ImageNet weights of ResNet-50 on this machine, there or not."""
    from trainables.models.resnet import IMAGENET

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(IMAGENET.url).name


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights, frozen ones included; batch-norm statistics are no weights."""
    return sum(parameter.numel() for parameter in model.parameters())

"""Models by name: each maps float images (N, 3, 32, 32) in [0, 1] to logits (N,) float32, above 0 for REAL."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import ModelConfig
from trainables.models.cnn.net import build_cnn
from trainables.models.resnet50.config import ResNet50Config
from trainables.runtime import seed_block


def _build_resnet50(config: ResNet50Config) -> nn.Module:
    from trainables.models.resnet50.net import ResNet50  # imports torchvision, which takes two seconds

    return ResNet50(config)


MODELS: dict[str, Callable[[Any], nn.Module]] = {"cnn": build_cnn, "resnet50": _build_resnet50}
"""Architecture -> function that builds the network from its configuration."""


def build_model(config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """Build a model on the CPU; the same configuration and seed give the same weights.

    Raises:
        InputError: If the initial weights cannot be fetched, found or loaded.
    """
    with seed_block(seed, torch.device("cpu")):
        model = MODELS[config.architecture](config)
    if isinstance(config, ResNet50Config) and config.weights != "none":
        from trainables.models.resnet50.weights import load_initial

        load_initial(model, config)
    return model


def restore_model(config: ModelConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a trained model on the CPU from its weights; initial weights are not loaded.

    Shapes are compared before the model is built, so a file's configuration cannot make it larger than its weights.

    Raises:
        RuntimeError: If the names or shapes of the weights are not those of the model.
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
    """Fetch and check a model's initial weights before any trial needs them.

    Raises:
        InputError: If they cannot be fetched, found or loaded; the message says what to do.
    """
    if isinstance(config, ResNet50Config) and config.weights != "none":
        build_model(config)


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights, frozen ones included, batch-norm statistics excluded."""
    return sum(parameter.numel() for parameter in model.parameters())

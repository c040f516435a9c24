"""Models by name: each maps float images (N, 3, 32, 32) in [0, 1] to logits (N,), above 0 for REAL."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainables.config import ModelConfig, ResNet50Config
from trainables.models.cnn import build_cnn
from trainables.models.resnet import ResNet50
from trainables.runtime import seed_block

MODELS: dict[str, Callable[[Any], nn.Module]] = {"cnn": build_cnn, "resnet50": ResNet50}
"""Architecture, as in its configuration, to what builds it from that configuration."""


def build_model(config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """Build a model on the CPU; the same configuration and seed give the same weights.

    Raises:
        InputError: If the initial weights cannot be fetched, found or loaded.
    """
    with seed_block(seed, torch.device("cpu")):
        return MODELS[config.architecture](config)


def fetch_weights(config: ModelConfig) -> None:
    """Fetch and check the initial weights that a model starts from, so that no trial has to fail for them.

    Raises:
        InputError: If they cannot be fetched, found or loaded; the message names the ways out.
    """
    if isinstance(config, ResNet50Config) and config.weights != "none":
        build_model(config)


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights, frozen ones included; batch-norm statistics are no weights."""
    return sum(parameter.numel() for parameter in model.parameters())

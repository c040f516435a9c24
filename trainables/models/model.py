"""Builds and restores networks, which map images (N, 3, size, size) in [0, 1] to logits (N,), above 0 for label 1."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import IMAGE_SIZE, Architecture, TrainConfig
from trainables.errors import InputError
from trainables.runtime import autocast, seed_block


def build_model(config: Architecture, *, seed: int = 0, size: int = IMAGE_SIZE) -> nn.Module:
    """Build a model on the CPU; the same configuration and seed give the same weights.

    Raises:
        InputError: If the initial weights cannot be fetched, found or loaded.
    """
    with seed_block(seed, torch.device("cpu")):
        model: nn.Module = config.build(size=size)
        if load := getattr(config, "load_weights", None):
            load(model)
    return model


def restore_model(config: Architecture, weights: Mapping[str, Tensor], *, size: int = IMAGE_SIZE) -> nn.Module:
    """Build a trained model on the CPU from its weights; initial weights are not loaded.

    Shapes are compared before the model is built, so a file's configuration cannot make it larger than its weights.

    Raises:
        RuntimeError: If the names, shapes or types of the weights are not those of the model.
    """
    with torch.device("meta"):
        outline = config.build(size=size).state_dict()
    expected, found = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in each.items()} for each in (outline, weights)
    )
    if found != expected:
        raise RuntimeError("the weights have other names, shapes or types")
    with seed_block(0, torch.device("cpu")):
        model: nn.Module = config.build(size=size)
    model.load_state_dict(weights)
    return model


def copy_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's weights as a file stores them: on the CPU, each in memory of its own, even if they are tied."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
    }


def check_model(name: str, training: TrainConfig, save: Callable[[dict[str, Tensor]], Any]) -> None:
    """Check that a model of the user can be built, saved and restored, and that it gives one logit for each image.

    Args:
        name: Name of the architecture.
        training: A training of the model.
        save: Function that writes the weights of a trained model; it raises an error if it cannot write them.

    Raises:
        InputError: If one of these steps fails, or the output has another shape.
    """
    step = "built"
    try:
        model = build_model(training.model, size=training.size).eval()
        with torch.inference_mode(), autocast(torch.device("cpu"), training.precision):
            logits = [model(torch.zeros(count, 3, training.size, training.size)) for count in (2, 1)]
        step = "saved"
        weights = copy_weights(model.state_dict())
        save(weights)
        step = "restored from its weights"
        restore_model(training.model, weights, size=training.size)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} cannot be {step} for images of {training.size} pixels: {type(error).__name__}: {error}"
        ) from error
    for count, found in zip((2, 1), logits, strict=True):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != (count,):
            raise InputError(
                f"{name}: expected logits of shape (N,) for N images, not {shape} for {count}: use .squeeze(1)"
            )


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights, frozen ones included, batch-norm statistics excluded."""
    return sum(parameter.numel() for parameter in model.parameters())

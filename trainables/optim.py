"""Optimizers by name, and learning-rate schedules as pure functions of progress."""

import functools
import inspect
import io
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import TrainConfig
from trainables.errors import InputError
from trainables.models.cnn.config import CnnConfig
from trainables.muon import Muon, group_weights
from trainables.names import IMPORTED


def _drop_compiler(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimizer class without the wrappers around its methods that serve torch.compile.

    The first call of a wrapper imports torch's compiler, which costs each worker a second and 130 MB. Nothing here is
    compiled (LOG.md, 2026-11-24).
    """
    wrapped = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(inspect.unwrap(kind.step))})


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": _drop_compiler(torch.optim.Adam),
    "adamw": _drop_compiler(torch.optim.AdamW),
    "sgd": functools.partial(_drop_compiler(torch.optim.SGD), momentum=0.9, nesterov=True),
    "muon": _drop_compiler(Muon),
}


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of the trainable weights; ours are fused (one pass over memory) on CUDA and on a CPU."""
    learning: list[Any] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "muon":
        learning = group_weights(model)
    build = {**OPTIMIZERS, **IMPORTED}[config.optimizer]
    fused = {"fused": True} if config.optimizer in OPTIMIZERS else {}
    optimizer: torch.optim.Optimizer = build(
        learning, lr=config.learning_rate, weight_decay=config.weight_decay, **fused
    )
    return optimizer


def check_optimizer(name: str) -> None:
    """Check that an optimizer of the user can train: build it, take a step, and restore its state.

    Raises:
        InputError: If one of these steps fails.
    """
    model = nn.Linear(1, 1)
    try:
        config = TrainConfig(model=CnnConfig(), epochs=1, optimizer=name)
        optimizer = build_optimizer(config, model)
        schedule(optimizer, config, 0.5)
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        stored = io.BytesIO()
        torch.save(optimizer.state_dict(), stored)
        stored.seek(0)
        optimizer.load_state_dict(torch.load(stored, weights_only=True))  # as a checkpoint is read
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{name} cannot train ({reason}): an optimizer is a torch.optim.Optimizer of (params, lr, weight_decay)"
        ) from error


def set_capturable(optimizer: torch.optim.Optimizer, enabled: bool) -> None:
    """Prepare the optimizer for recording its steps in a CUDA graph, or undo that.

    In a graph the learning rate is a tensor that each step reads. Call this after loading a state, because the state
    may come from a training on another kind of device.
    """
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        group["lr"] = torch.tensor(rate, device=group["params"][0].device) if enabled else rate
        if "capturable" in group:
            group["capturable"] = enabled
    # Prevents a warning about steps outside a graph: those before the recording are intended.
    optimizer._warned_capturable_if_run_uncaptured = enabled


def schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, progress: float) -> float:
    """Set the learning rates for the fraction of training done, in [0, 1], and return that of `learning_rate`."""
    multiplier = SCHEDULES[config.schedule](progress, warmup_frac=config.warmup_frac)
    for group in optimizer.param_groups:
        peak = config.muon_learning_rate if group.get("use_muon") else config.learning_rate
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(peak * multiplier)
        else:
            group["lr"] = peak * multiplier
    return config.learning_rate * multiplier


def constant(progress: float, *, warmup_frac: float) -> float:
    """Learning-rate multiplier: linear warm-up, then 1.

    Args:
        progress: Fraction of training done, in [0, 1].
        warmup_frac: Fraction of training spent warming up, in [0, 1).

    Raises:
        ValueError: If progress is outside [0, 1].
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress = {progress}: expected 0 to 1")
    return progress / warmup_frac if progress < warmup_frac else 1.0


def cosine(progress: float, *, warmup_frac: float) -> float:
    """Learning-rate multiplier: linear warm-up, then cosine decay to 0.

    Args:
        progress: Fraction of training done, in [0, 1].
        warmup_frac: Fraction of training spent warming up, in [0, 1).

    Raises:
        ValueError: If progress is outside [0, 1].

    Source: Loshchilov and Hutter 2017, SGDR, eq. 5 (arXiv:1608.03983); warm-up is ours.
    """
    decay_progress = max(0.0, progress - warmup_frac) / (1.0 - warmup_frac)
    return constant(progress, warmup_frac=warmup_frac) * 0.5 * (1.0 + math.cos(math.pi * decay_progress))


def one_cycle(progress: float, *, warmup_frac: float) -> float:
    """Learning-rate multiplier: half a cosine up from 1/25, then half a cosine down to 1/250,000.

    Args:
        progress: Fraction of training done, in [0, 1].
        warmup_frac: Fraction of training in which the rate rises, in [0, 1).

    Raises:
        ValueError: If progress is outside [0, 1].

    Source: Smith and Topin 2017 (arXiv:1708.07120), with the shape and the end values of PyTorch's OneCycleLR; the
    momentum does not change.
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress = {progress}: expected 0 to 1")
    if progress < warmup_frac:
        start, share = 1 / 25, progress / warmup_frac
    else:
        start, share = 1 / 250_000, (1.0 - progress) / (1.0 - warmup_frac)
    return start + (1.0 - start) * 0.5 * (1.0 - math.cos(math.pi * share))


SCHEDULES: dict[str, Callable[..., float]] = {"constant": constant, "cosine": cosine, "one_cycle": one_cycle}

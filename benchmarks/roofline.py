"""Counts the arithmetic and the memory traffic of one training step, and measures this device's rates of both.

The floor assumes that the step's operations run one by one, each reading from memory and writing to it. Fused
operations, or a cache that holds a whole batch, can be faster than this floor.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import IMAGE_SIZE, TrainConfig
from trainables.models.model import build_model
from trainables.optim import build_optimizer
from trainables.runtime import autocast, choose_precision


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Arithmetic and memory traffic of a training step."""

    macs_per_image: float
    """Multiply-accumulates of convolutions and matrix products, forward and backward."""
    bytes_per_image: float
    """Bytes that all operations read and write, including the optimizer's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """The highest rates of a device."""

    macs_per_second: float
    """Rate of a large matrix product in the number type in which training computes."""
    bytes_per_second: float
    """Rate of a large copy, bytes read and written."""

    def floor_seconds(self, work: Work) -> float:
        """Return the shortest possible time for one image."""
        return max(work.macs_per_image / self.macs_per_second, work.bytes_per_image / self.bytes_per_second)


class _ByteCounter(TorchDispatchMode):
    """Adds up the sizes of each operation's inputs and outputs; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(leaf.nbytes for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor))
        return result


def count_work(config: TrainConfig, device: torch.device) -> Work:
    """Count the second step of a training, because the first one also creates the optimizer's state."""
    model = build_model(config.model).to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config, model)
    images = torch.rand(config.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.ones(config.batch_size, device=device)

    def step() -> None:
        with autocast(device, config.precision):
            logits = model(images)
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    with FlopCounterMode(display=False) as flops, _ByteCounter() as moved:
        step()
    num = config.batch_size
    return Work(macs_per_image=flops.get_total_flops() / 2 / num, bytes_per_image=moved.total / num)


def measure_roof(device: torch.device) -> Roof:
    """Measure a device: a large matrix product and a large copy, the best of ten each."""
    is_cuda = device.type == "cuda"
    side = 8192 if is_cuda else 2048
    factor = torch.rand(side, side, device=device, dtype=getattr(torch, choose_precision("auto", device)))
    source = torch.zeros(2**30 if is_cuda else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Roof(
        macs_per_second=side**3 / _measure(lambda: factor @ factor, device),
        bytes_per_second=2 * source.nbytes / _measure(lambda: target.copy_(source), device),
    )


def _measure(action: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        action()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def wait(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""The cost of a model: arithmetic and speed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import IMAGE_SIZE, Architecture, TrainConfig
from trainables.errors import InputError
from trainables.models.model import count_parameters
from trainables.runtime import build_generator
from trainables.train import score_batch

BATCH_SIZES = (1, 256)
TIMING_S = 0.3
"""Shortest measurement for one batch size, in seconds; the result is the median."""
MAX_BATCH = 128
"""Largest number of images that are predicted at a time."""
BATCH_BYTES = 2**28
"""Memory for the largest intermediate result of a batch; that of a small file of weights may have any size."""
IMAGE_BYTES = 2**30
"""Largest intermediate result for one image."""


def count_weights(config: Architecture, *, size: int = IMAGE_SIZE) -> int:
    """Return the number of a model's parameters, without memory for them."""
    with torch.device("meta"):
        return count_parameters(config.build(size=size))


def count_work(config: Architecture, *, flip_average: bool, size: int = IMAGE_SIZE) -> float:
    """Return a model's multiply-accumulates per image, from its shapes alone.

    The work is counted on fake tensors of a CPU, because the models use autocast, which refuses the meta device. The
    model is built on the meta device, because layers of transformers copy tensors, and copies of fake tensors do not
    work together.
    """
    model, images = _build_fake(config, size)
    with _count_flops() as counter:
        score_batch(model, images, flip_average=flip_average)
    return float(counter.get_total_flops() / 2)


def count_batch(config: Architecture, *, size: int = IMAGE_SIZE) -> int:
    """Return how many images a model predicts at a time, at most MAX_BATCH, so that memory is bounded.

    Raises:
        InputError: If one image takes too much.
    """
    model, images = _build_fake(config, size)
    with _Largest() as largest:
        score_batch(model, images, flip_average=False)
    if largest.num_bytes > IMAGE_BYTES:
        raise InputError(f"the model needs {largest.num_bytes / 2**30:.1f} GB of memory for one image: use another one")
    return int(max(1, min(MAX_BATCH, BATCH_BYTES // max(largest.num_bytes, 1))))


class _Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.num_bytes = max(self.num_bytes, tensor.numel() * tensor.element_size())
        return result


def _build_fake(config: Architecture, size: int) -> tuple[nn.Module, Tensor]:
    """Return a model and one image as fake tensors of a CPU, which have shapes and no values."""
    with torch.device("meta"):
        model: nn.Module = config.build(size=size).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        return model.to_empty(device="cpu"), torch.empty((1, size, size, 3), dtype=torch.uint8)


def measure_cost(model: nn.Module, config: TrainConfig, *, device: torch.device) -> dict[str, float]:
    """Count multiply-accumulates per image and time predictions, with mirror images if the model averages them.

    Returns:
        macs, images_per_second_1 and images_per_second_256. Other work on the machine slows the latter two.
    """
    # Imported here, because it looks for compilers and warns if CUDA is incomplete; the driver does not need it.
    from torch.utils.benchmark import Timer

    model.to(device).to(memory_format=torch.channels_last).eval()
    generator = build_generator(torch.device("cpu"), 0)
    shape = (max(BATCH_SIZES), config.size, config.size, 3)
    flip_average = config.flip_average
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)
    with _count_flops() as counter:
        score_batch(model, images[:1], flip_average=flip_average)
    cost = {"macs": counter.get_total_flops() / 2}
    for size in BATCH_SIZES:
        timer = Timer(
            "score_batch(model, images, flip_average=flip_average)",
            globals={"score_batch": score_batch, "model": model, "images": images[:size], "flip_average": flip_average},
            num_threads=torch.get_num_threads(),
        )
        cost[f"images_per_second_{size}"] = size / timer.blocked_autorange(min_run_time=TIMING_S).median
    return cost


@contextmanager
def _count_flops() -> Iterator[FlopCounterMode]:
    """Count the work of the block, in which attention and PyTorch's layers of transformers run without fusion.

    The counter does not know their fused operations, and would count them as no work.
    """
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)

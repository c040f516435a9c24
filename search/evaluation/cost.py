"""The cost of a model: arithmetic and speed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import IMAGE_SIZE, Architecture, TrainConfig
from trainables.models.model import count_parameters
from trainables.runtime import build_generator
from trainables.train import score_batch

BATCH_SIZES = (1, 256)
TIMING_S = 0.3
"""Shortest measurement for one batch size, in seconds; the result is the median."""


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
    with torch.device("meta"):
        model = config.build(size=size).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), _count_flops() as counter:
        model.to_empty(device="cpu")
        images = torch.empty((1, size, size, 3), dtype=torch.uint8)
        score_batch(model, images, flip_average=flip_average)
    return float(counter.get_total_flops() / 2)


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

"""The machine: device, threads, memory, and generators of random numbers."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import deterministic

# cuBLAS repeats to the bit only with a workspace of a fixed size, which is read once, before its first use.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pick_device() -> torch.device:
    """Return the CUDA device that this process was granted, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_hardware(device: torch.device) -> dict[str, str | int]:
    """Return what a training's last bits depend on beside its configuration and the versions of the software."""
    return {
        "type": device.type,
        "name": describe_device(device),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
    }


def limit_threads(num_threads: int) -> None:
    """Let this process compute on so many threads and no more, so that trials side by side do not crowd.

    May be called again by the next trial in the process.
    """
    torch.set_num_threads(num_threads)
    # PyTorch lets the inter-op pool be sized once, before its first use; later calls find it as small already.
    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(1)


def limit_memory(device: torch.device, fraction: float) -> None:
    """Let this process hold at most a fraction of the GPU's memory, in (0, 1], so that no trial starves another.

    PyTorch's tensors and caches count; the CUDA context, about half a gigabyte a process, does not, so a twentieth of a
    part is left to it, or else the parts of a full GPU would add up to more than there is. No effect on a CPU. May be
    called again by the next trial in the process.
    """
    if device.type == "cuda":
        # A device without an index would be refused; None is the current one.
        torch.cuda.set_per_process_memory_fraction(0.95 * fraction if fraction < 1 else 1.0, device.index)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak: of PyTorch's tensors on a GPU, or of this process's resident memory on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def read_peak_memory(device: torch.device) -> int | None:
    """Return the most bytes held since `reset_peak_memory`; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)


def autocast(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where it is safe, on CUDA; on a CPU bfloat16 is slower, so nothing changes there."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


@contextlib.contextmanager
def deterministic_block(enabled: bool) -> Iterator[None]:
    """Let only algorithms that repeat to the bit run in a block; on leaving, the caller's settings are as they were.

    Never yield from a generator inside the block.
    """
    if not enabled:
        yield
        return
    cudnn = torch.backends.cudnn
    memory: Any = deterministic  # its one attribute is a property, which mypy does not see
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    before_cudnn, before_fill = (cudnn.deterministic, cudnn.benchmark), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    memory.fill_uninitialized_memory = False  # nothing here reads what it has not written; filling takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before_cudnn
        memory.fill_uninitialized_memory = before_fill


def build_generator(device: torch.device, seed: int) -> torch.Generator:
    """Build a generator of random numbers on a device."""
    return torch.Generator(device=device).manual_seed(seed)


@contextlib.contextmanager
def seed_block(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators for a block; on leaving, the caller's are as they were.

    Initialisation and dropout can draw from nothing else. Never yield from a generator inside the block: the
    consumer would run on these seeds.

    Args:
        seed: In [0, 2^63).
        device: Whose generator, beside the CPU's, the block draws from.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield

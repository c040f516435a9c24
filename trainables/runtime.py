"""The machine: device, threads, memory, and random number generators."""

import contextlib
import ctypes
import functools
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import deterministic

# cuBLAS is reproducible to the bit only with a workspace of fixed size; it reads this once, before its first use.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pick_device() -> torch.device:
    """Return the CUDA device that this process was granted, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    """Return the name of the GPU, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_hardware(device: torch.device) -> dict[str, str | int]:
    """Return the properties of the hardware on which the last bits of a training's results depend."""
    return {
        "type": device.type,
        "name": describe_device(device),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "precision": choose_precision("auto", device),
    }


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return the precision in which training computes; `auto` is bfloat16 if the device multiplies it natively."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" or multiplies_bfloat16() else "float32"


@functools.cache
def multiplies_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 natively; on other processors it is slower than float32."""
    known = getattr(torch.cpu, "get_capabilities", dict[str, Any])()  # torch 2.11 lacks it
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def limit_threads(num_threads: int) -> None:
    """Limit this process to a number of threads, so that concurrent trials do not compete for cores.

    The next trial in the process may call this again.
    """
    torch.set_num_threads(num_threads)
    # PyTorch allows this once, before the pool is used; later calls find it set already.
    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(1)


def keep_memory() -> None:
    """Let this process keep the memory that it frees; return the memory that an earlier trial has left.

    glibc returns each large tensor to the system, which clears its pages again at the next step: up to 7,600 page
    faults a step, and 1.1 to 1.9 times the time (LOG.md, 2026-11-29). glibc up to 2.34 keeps tensors up to 32 MiB only.
    No effect with another C library. The next trial in the process calls this again.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS has no mallopt, Windows no library of this name
        return
    # M_MMAP_THRESHOLD: glibc up to 2.34 refuses more than 32 MiB, and returns 0.
    if mallopt(-3, 1 << 30) or mallopt(-3, 32 << 20):
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD; alone it would fix the other threshold at 128 KiB
    trim(0)


def limit_memory(device: torch.device, fraction: float) -> None:
    """Limit this process to a fraction of the GPU's memory, in (0, 1], so that no trial starves another.

    PyTorch's tensors and caches count, the CUDA context does not (about half a gigabyte a process). So 5 % of the
    fraction is reserved for the context; otherwise the processes of a full GPU would exceed its memory. No effect on a
    CPU. The next trial in the process may call this again.
    """
    if device.type == "cuda":
        # PyTorch refuses a device without an index; None means the current one.
        torch.cuda.set_per_process_memory_fraction(0.95 * fraction if fraction < 1 else 1.0, device.index)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory: of PyTorch's tensors on a GPU, else of this process's resident memory on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def read_peak_memory(device: torch.device) -> int | None:
    """Return the peak memory since `reset_peak_memory` in bytes; None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context that computes in bfloat16 where that is safe; it has no effect with another precision."""
    is_enabled = choose_precision(precision, device) == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_enabled)


@contextlib.contextmanager
def deterministic_block(enabled: bool) -> Iterator[None]:
    """Allow only algorithms that are reproducible to the bit in a block; restore the settings afterwards.

    Never yield from a generator inside the block.
    """
    if not enabled:
        yield
        return
    cudnn = torch.backends.cudnn
    memory: Any = deterministic  # mypy does not see its only attribute, which is a property
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    before_cudnn, before_fill = (cudnn.deterministic, cudnn.benchmark), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    memory.fill_uninitialized_memory = False  # no code here reads uninitialised memory, and filling takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before_cudnn
        memory.fill_uninitialized_memory = before_fill


def build_generator(device: torch.device, seed: int) -> torch.Generator:
    """Build a random number generator on a device."""
    return torch.Generator(device=device).manual_seed(seed)


@contextlib.contextmanager
def seed_block(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators for a block; restore their states afterwards.

    Initialisation and dropout can only draw from the global generators. Never yield from a generator inside the block,
    because the consumer would then draw from these seeds.

    Args:
        seed: In [0, 2^63).
        device: Its generator is seeded in addition to the CPU's.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield

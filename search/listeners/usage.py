"""Load of the driver's machine: cores, memory, GPUs. Reading it takes less than a millisecond."""

import contextlib
import time
from typing import Any

import psutil

INTERVAL_S = 1.0
"""Seconds between two readings."""


class Usage:
    """Reads the load of the machine, at most once per interval."""

    def __init__(self) -> None:
        self._gpus = _open_gpus()
        psutil.cpu_percent()  # the next call returns the mean since this one
        self._text = ""
        self._due = time.monotonic() + INTERVAL_S / 4

    def describe(self) -> str:
        """Return a line such as `CPU 97 %   memory 3.4 of 24 GiB   GPU 0 85 %, 12 of 139 GiB`; empty at first."""
        if time.monotonic() >= self._due:
            memory = psutil.virtual_memory()
            parts = [f"CPU {psutil.cpu_percent():.0f} %", f"memory {_format_bytes(memory.used, memory.total)}"]
            self._text = "   ".join([*parts, *map(_describe_gpu, range(len(self._gpus)), self._gpus)])
            self._due = time.monotonic() + INTERVAL_S
        return self._text


def _open_gpus() -> list[Any]:
    """Return NVIDIA's handles of the machine's GPUs; an empty list without the library `pynvml` or the driver."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _describe_gpu(index: int, handle: Any) -> str:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    busy = ""
    with contextlib.suppress(pynvml.NVMLError):  # a MIG slice reports no load
        busy = f"{pynvml.nvmlDeviceGetUtilizationRates(handle).gpu} %, "
    return f"GPU {index} {busy}{_format_bytes(memory.used, memory.total)}"


def _format_bytes(used: int, total: int) -> str:
    return f"{used / 2**30:.1f} of {total / 2**30:.0f} GiB"

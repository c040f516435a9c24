import re
import sys
import types

from search.listeners import usage
from search.listeners.usage import Usage


class Nvml(types.ModuleType):
    """A stand-in of NVIDIA's library: one GPU, and a slice of another one that does not say how busy it is."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, has_driver):
        super().__init__("pynvml")
        self.has_driver = has_driver

    def nvmlInit(self):  # noqa: N802 as NVIDIA calls it
        if not self.has_driver:
            raise self.NVMLError

    def nvmlDeviceGetCount(self):  # noqa: N802 as NVIDIA calls it
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802 as NVIDIA calls it
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802 as NVIDIA calls it
        return types.SimpleNamespace(used=(handle + 1) * 2**30, total=64 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802 as NVIDIA calls it
        if handle == 1:
            raise self.NVMLError
        return types.SimpleNamespace(gpu=85)


def test_cores_and_memory_are_read_at_most_once_per_interval(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(usage, "INTERVAL_S", 0.0)
    busy = Usage()
    assert re.fullmatch(r"CPU \d+ %   memory \d+\.\d of \d+ GiB", busy.describe())
    monkeypatch.setattr(usage, "INTERVAL_S", 3600.0)
    assert busy.describe() is busy.describe()


def test_every_gpu_is_named_if_nvidias_library_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(has_driver=True))
    monkeypatch.setattr(usage, "INTERVAL_S", 0.0)
    assert Usage().describe().endswith("   GPU 0 85 %, 1.0 of 64 GiB   GPU 1 2.0 of 64 GiB")


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(has_driver=False))
    monkeypatch.setattr(usage, "INTERVAL_S", 0.0)
    assert "GPU" not in Usage().describe()

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import deterministic

from trainables.runtime import (
    autocast,
    build_generator,
    choose_precision,
    describe_device,
    describe_hardware,
    deterministic_block,
    keep_memory,
    limit_memory,
    multiplies_bfloat16,
    pick_device,
    seed_block,
)

CPU = torch.device("cpu")


def test_generators_of_the_same_seed_draw_the_same() -> None:
    draws = [torch.rand(5, generator=build_generator(CPU, seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_seeded_block_repeats_and_leaves_the_callers_generator_alone() -> None:
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seed_block(5, CPU):
            draws.append(torch.rand(4))
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)


def draw_and_fail() -> None:
    with seed_block(5, CPU):
        torch.rand(4)
        raise RuntimeError("broken")


def test_a_seeded_block_that_fails_still_gives_the_generator_back() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_device_is_cuda_when_there_is_one() -> None:
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_has_a_name() -> None:
    assert describe_device(pick_device()).strip()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_are_of_the_precision_that_was_chosen(precision: str) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, precision)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"sve": True}, "float32"),
        (None, "float32"),  # an older torch
    ],
)
def test_auto_is_what_the_processor_multiplies_natively(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool] | None, expected: str
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if capabilities is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    multiplies_bfloat16.cache_clear()
    try:
        assert choose_precision("auto", CPU) == expected
        assert describe_hardware(CPU)["precision"] == expected
        assert choose_precision("auto", torch.device("cuda")) == "bfloat16"
        assert choose_precision("float32", torch.device("cuda")) == "float32"
    finally:
        multiplies_bfloat16.cache_clear()


def test_threads_are_limited_again_and_again_in_one_process() -> None:
    code = (
        "import torch\n"
        "from trainables.runtime import limit_threads\n"
        "for num in (1, 2, 1):\n"
        "    limit_threads(num)\n"
        "    torch.rand(500, 500) @ torch.rand(500, 500)\n"
        "    print(torch.get_num_threads(), torch.get_num_interop_threads())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:3] == ["1 1", "2 1", "1 1"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns large tensors to the system")
def test_memory_is_kept_from_step_to_step_and_given_back_between_trials() -> None:
    code = (
        "import resource, torch\n"
        "from pathlib import Path\n"
        "from trainables.runtime import keep_memory\n"
        "def count_faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20):\n"
        "        torch.ones(30 * 2**20, dtype=torch.uint8)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "def count_pages():\n"
        "    return int(Path('/proc/self/statm').read_text().split()[1])\n"
        "plain = count_faults()\n"
        "keep_memory()\n"
        "count_faults()\n"
        "print(plain, count_faults())\n"
        "kept = count_pages()\n"
        "keep_memory()\n"
        "print((kept - count_pages()) * resource.getpagesize() / 2**20)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (plain, kept), [returned] = (map(float, line.split()) for line in run.stdout.splitlines())
    assert kept < plain / 20
    assert returned > 20


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_the_functions_of_glibc_memory_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    asked = []

    def refuse(library: object) -> None:
        asked.append(library)
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    keep_memory()
    assert asked == [None]


MMAP, TRIM = -3, -1
"""Options of mallopt."""


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (1 << 40, [(MMAP, 1 << 30), (TRIM, (1 << 31) - 1)]),
        (32 << 20, [(MMAP, 1 << 30), (MMAP, 32 << 20), (TRIM, (1 << 31) - 1)]),  # glibc up to 2.34
        (0, [(MMAP, 1 << 30), (MMAP, 32 << 20)]),
    ],
)
def test_memory_is_trimmed_less_only_if_glibc_accepts_a_size_of_tensors_to_keep(
    monkeypatch: pytest.MonkeyPatch, largest: int, expected: list[tuple[int, int]]
) -> None:
    asked = []

    class Library:
        def mallopt(self, option: int, value: int) -> int:
            asked.append((option, value))
            return int(option != MMAP or value <= largest)

        def malloc_trim(self, _pad: int) -> int:
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library())
    keep_memory()
    assert asked == expected


Flags = tuple[bool, bool, bool, bool, bool]


def read_flags() -> Flags:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        deterministic.fill_uninitialized_memory,
    )


def set_flags(flags: Flags) -> None:
    torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags[2:4]
    deterministic.fill_uninitialized_memory = flags[4]


def note_flags_and_fail(seen: list[Flags]) -> None:
    with deterministic_block(True):
        seen.append(read_flags())
        raise RuntimeError("broken")


@pytest.mark.parametrize("caller", [(False, False, False, True, True), (True, True, True, False, False)])
def test_a_deterministic_block_sets_the_flags_and_gives_the_callers_back(caller: Flags) -> None:
    before = read_flags()
    try:
        set_flags(caller)
        with deterministic_block(False):
            assert read_flags() == caller
        seen: list[Flags] = []
        with pytest.raises(RuntimeError, match="broken"):
            note_flags_and_fail(seen)
        assert seen == [(True, False, True, False, False)]
        assert read_flags() == caller
    finally:
        set_flags(before)


@pytest.mark.parametrize(("caller", "expected"), [({}, ":4096:8"), ({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, ":16:8")])
def test_the_workspace_of_cublas_is_fixed_on_import_unless_the_caller_did(
    caller: dict[str, str], expected: str
) -> None:
    others = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    code = "import os, trainables.runtime; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**others, **caller}, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == expected


def test_memory_is_not_limited_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given))
    limit_memory(CPU, 0.5)
    assert asked == []


@pytest.mark.parametrize(
    ("device", "fraction", "limit"),
    [("cuda", 0.25, (0.2375, 0)), ("cuda:1", 0.5, (0.475, 1)), ("cuda", 1.0, (1.0, 0))],
)
def test_a_share_of_memory_is_set_for_a_device_that_torch_accepts(
    monkeypatch: pytest.MonkeyPatch, device: str, fraction: float, limit: tuple[float, int]
) -> None:
    seen: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda *given: seen.append(given), raising=False)
    limit_memory(torch.device(device), fraction)
    assert seen == [pytest.approx(limit)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_process_cannot_hold_more_than_its_share_of_a_gpu() -> None:
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    try:
        limit_memory(device, 0.1)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 5, dtype=torch.uint8, device=device)
        torch.empty(total // 20, dtype=torch.uint8, device=device)
    finally:
        limit_memory(device, 1.0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is Linux's to tell")
def test_the_peak_of_memory_counts_from_its_reset() -> None:
    code = (
        "import torch\n"
        "from trainables.runtime import read_peak_memory, reset_peak_memory\n"
        "cpu = torch.device('cpu')\n"
        "torch.ones(100 * 2**20, dtype=torch.uint8)\n"  # freed at once
        "reset_peak_memory(cpu)\n"
        "before = read_peak_memory(cpu)\n"
        "torch.ones(200 * 2**20, dtype=torch.uint8)\n"
        "print(read_peak_memory(cpu) - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 150 * 2**20 < int(run.stdout) < 250 * 2**20

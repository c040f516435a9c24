"""Measures packing a data set, finding its pack again, and opening it in a new process.

Run `python -m benchmarks.packing [SOURCE] [--json PATH]`; without SOURCE, 4,000 JPEGs of noise are packed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.io import write_jpeg

from trainables.pack import pack
from trainables.pack_info import load_info, verify

OPEN = """
import sys, time
from pathlib import Path
from trainables.splits import open_train
start = time.perf_counter()
open_train(Path(sys.argv[1]), val_fraction=0.1, seed=0, max_images=None)
print(time.perf_counter() - start)
"""


def measure(source: Path, cache: Path) -> dict[str, float]:
    """Return the figures by name; seconds, and images per second."""
    pack_s = _clock(lambda: pack(source, cache))
    find_s = _clock(lambda: pack(source, cache))
    packed = pack(source, cache)
    num_images = sum(sum(classes.values()) for classes in load_info(packed).counts.values())
    return {
        "images": num_images,
        "pack_seconds": pack_s,
        "pack_images_per_second": num_images / pack_s,
        "find_seconds": find_s,
        "open_seconds": statistics.median(_open_elsewhere(packed) for _ in range(3)),
        "verify_seconds": _clock(lambda: verify(packed)),
    }


def _clock(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _open_elsewhere(packed: Path) -> float:
    """Return the seconds that opening takes in a new process, after its imports."""
    command = [sys.executable, "-c", OPEN, str(packed)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _write_noise(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for part in ("train/FAKE", "train/REAL", "test/FAKE", "test/REAL"):
        (folder / part).mkdir(parents=True)
        for number in range(1000):
            image = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=generator)
            write_jpeg(image, str(folder / part / f"{number}.jpg"))
    return folder


def main() -> None:
    """Measure, print and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", help="folder or zip; default: noise")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or _write_noise(Path(folder) / "noise")
        figures = measure(source, Path(folder) / "cache")
    for name, value in figures.items():
        print(f"{name:24} {value:12,.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

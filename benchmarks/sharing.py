"""Measures 1, 2, 4 and 8 trainings side by side on one GPU or on the CPU's cores, each with an equal share.

Run `python -m benchmarks.sharing [--model NAME] [--images N] [--json PATH] [--short]`. Needs torch, torchvision and
numpy only.
"""

import argparse
import json
import multiprocessing
import os
import queue
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import MODELS
from trainables.config import TrainConfig
from trainables.runtime import describe_device, keep_memory, limit_memory, limit_threads, pick_device
from trainables.splits import Split
from trainables.train import train

COUNTS = (1, 2, 4, 8)
"""Numbers of processes."""
NUM_EPOCHS = 3
"""Number of timed epochs; one more epoch before them warms up."""
NUM_IMAGES = {"cpu": 2560, "cuda": 100_000, "short": 256}
"""Images in an epoch of one process."""


def measure(model: str, count: int, num_images: int) -> dict[str, float]:
    """Train in `count` processes at once.

    Returns:
        Images per second of all processes together, and the largest GPU memory of one process in bytes.
    """
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_work, args=(model, count, num_images, barrier, results), daemon=True)
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    spans = _collect(processes, results)
    seconds = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return {
        "images_per_second": count * NUM_EPOCHS * num_images / seconds,
        "memory_bytes": max(memory for _, _, memory in spans),
    }


def _collect(processes: Sequence[BaseProcess], results: Any) -> list[tuple[float, float, int]]:
    """Wait for the result of every process; one that fails has printed why, sends nothing, and ends the others."""
    spans: list[tuple[float, float, int]] = []
    while len(spans) < len(processes):
        try:
            spans.append(results.get(timeout=1))
        except queue.Empty:
            if broken := [process for process in processes if process.exitcode not in (None, 0)]:
                for process in processes:
                    process.kill()
                code = broken[0].exitcode
                raise SystemExit(f"one of {len(processes)} trainings side by side ended with code {code}") from None
    for process in processes:
        process.join()
    return spans


def _work(model: str, count: int, num_images: int, barrier: Barrier, results: Any) -> None:
    """Train one share; all processes start their timed epochs together and use the machine's clock."""
    device = pick_device()
    limit_threads(max(1, len(os.sched_getaffinity(0)) // count))
    limit_memory(device, 1 / count)
    keep_memory()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num_images, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(num_images).remainder(2).to(torch.uint8)
    split = Split(images=images, labels=labels, indices=torch.arange(num_images))
    epochs = train(TrainConfig(model=MODELS[model], epochs=NUM_EPOCHS + 1), split, None, device=device)
    next(epochs)
    barrier.wait(timeout=600)
    start = time.monotonic()
    for _ in epochs:
        pass
    end = time.monotonic()
    results.put((start, end, torch.cuda.max_memory_reserved() if device.type == "cuda" else 0))


def main() -> None:
    """Measure, print and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="paper_cnn")
    parser.add_argument("--images", type=int, help="images in an epoch of one process")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--short", action="store_true", help="few images, at most two processes: does it run?")
    arguments = parser.parse_args()
    device = pick_device()
    num_images = NUM_IMAGES["short"] if arguments.short else arguments.images or NUM_IMAGES[device.type]
    figures: dict[str, Any] = {
        "device": describe_device(device),
        "torch": torch.__version__,
        "model": arguments.model,
        "processes": {},
    }
    print(f"{figures['device']}, torch {torch.__version__}, {arguments.model}", flush=True)
    print(f"{'processes':>9}{'images/s':>12}{'to one':>8}{'memory, MB':>12}")
    for count in COUNTS[:2] if arguments.short else COUNTS:
        found = measure(arguments.model, count, num_images)
        figures["processes"][str(count)] = found
        gain = found["images_per_second"] / figures["processes"]["1"]["images_per_second"]
        print(
            f"{count:9}{found['images_per_second']:12,.0f}{gain:8.2f}{found['memory_bytes'] / 1e6:12,.0f}", flush=True
        )
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

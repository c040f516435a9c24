"""Compares the training loop with its earlier form, its floor, and the usual recipe, interleaved in one run.

before  trainables.train in float32, with memory as glibc handles it, as it was until 2026-11-29; CPU only
kept    the same, with memory kept; CPU only
loop    trainables.train as it is now: memory kept, bfloat16 where the device multiplies it natively
bare    a hand-written loop over float tensors in memory: same model, batch, optimizer and precision; on CUDA its
        kernels are launched one by one, those of our loop as a graph, so ours may be faster there
usual   ImageFolder + Resize + ToTensor + DataLoader with its best number of workers, and a plain loop in float32
floor   time of the step's operations at the device's measured rates (benchmarks/roofline.py)

Each loop has its own process. On a CPU ratios are those of processor time, which other work on the machine hardly
changes; on CUDA they are those of wall time.

Run `python -m benchmarks.training [--data PATH] [--json PATH] [--short]`; without --data, the images are made-up JPEGs.
On CUDA it also times 20 epochs of 100,000 images. Each figure is written at once, so you may interrupt a run. It needs
only torch, torchvision and numpy. OMP_NUM_THREADS=1 gives each loop one thread, as a trial has.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torchvision.io import write_jpeg

from benchmarks.loops import KINDS, Loop, Plan, Turn, compile_models
from benchmarks.roofline import Roof, count_work, measure_roof
from trainables.config import PRECISIONS, Architecture, TrainConfig
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model, count_parameters
from trainables.models.resnet50.config import ResNet50Config
from trainables.pack import pack
from trainables.runtime import choose_precision, describe_device, keep_memory, pick_device
from trainables.source import open_source
from trainables.splits import Split, open_full_train
from trainables.train import train

SMALL_CNN = CnnConfig(
    num_blocks=3, convs_per_block=2, filters=32, growth=2.0, batch_norm=True, head="gap", dense_layers=0
)
MODELS: dict[str, Architecture] = {
    "paper_cnn": CnnConfig(),
    "small_cnn": SMALL_CNN,
    "resnet50": ResNet50Config(),
    "resnet50_cifar": ResNet50Config(stem="cifar"),
}
SIZES = {
    "cpu": {"paper_cnn": 8192, "small_cnn": 1024, "resnet50": 384, "resnet50_cifar": 64},
    "cuda": {"paper_cnn": 40_960, "small_cnn": 40_960, "resnet50": 20_480, "resnet50_cifar": 20_480},
    "short": {"paper_cnn": 512, "small_cnn": 128, "resnet50": 64},
}
"""Images in an epoch."""
BATCH_SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "cpu": {"": (128,), "resnet50_cifar": (32,)},
    "cuda": {"": (128, 1024)},
    "short": {"": (128,)},
}
"""Kind of run and model -> batch size; the empty name stands for all other models."""
FULL_MODELS = ("paper_cnn", "resnet50_cifar")
"""Models whose 20 epochs are timed."""
FULL_IMAGES = {"cuda": 100_000, "short": 256}
"""Images in each of the 20 epochs; too many for a CPU."""


def compare(plan: Plan, rounds: int, roof: Roof) -> dict[str, Any]:
    """Measure the loops on one model, a round at a time, and count their floor."""
    kinds = KINDS[plan.device.type]
    loops: dict[str, Loop] = {}
    turns: dict[str, list[Turn]] = {kind: [] for kind in kinds}
    try:
        for kind in kinds:
            loops[kind] = Loop(kind, plan)
        for turn in range(rounds):
            # The loops change their order in each round, so that none always follows the same other one.
            first = turn % len(kinds)
            for kind in kinds[first:] + kinds[:first]:
                turns[kind].append(loops[kind].measure())
    finally:
        for loop in loops.values():
            loop.close()
    work = count_work(plan.config, plan.device)
    measured = {
        f"{kind}_{name}": statistics.median(getattr(turn, name) for turn in found)
        for kind, found in turns.items()
        for name in ("images_per_second", "cpu_us_per_image", "faults_per_step")
    }
    return {
        "parameters": count_parameters(build_model(plan.config.model)),
        "images": plan.num_images,
        **measured,
        "usual_workers": loops["usual"].workers,
        **{f"loop_to_{kind}": _compare(turns["loop"], turns[kind], plan.device) for kind in kinds if kind != "loop"},
        **dataclasses.asdict(work),
        "floor_images_per_second": 1 / roof.floor_seconds(work),
    }


def time_epochs(name: str, batch_size: int, num: int, device: torch.device, **options: Any) -> float:
    """Return the seconds that 20 epochs of `num` images take, from raw images in memory to trained weights."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(num).remainder(2).to(torch.uint8)
    split = Split(images=images, labels=labels, indices=torch.arange(num))
    few = dataclasses.replace(split, indices=split.indices[: 4 * batch_size])
    config = TrainConfig(model=MODELS[name], epochs=20, batch_size=batch_size, **options)
    next(train(config, few, None, device=device))
    started = time.perf_counter()
    for _ in train(config, split, None, device=device):
        pass
    return time.perf_counter() - started


def prepare(folder: Path, data: Path | None, num: int) -> Path:
    """Write `num` training images, and a few test images, in the published layout."""
    generator = torch.Generator().manual_seed(0)
    for part, count in {"train/FAKE": num // 2, "train/REAL": num // 2, "test/FAKE": 2, "test/REAL": 2}.items():
        (folder / part).mkdir(parents=True)
        if data is None:
            _draw_images(folder / part, count, generator)
            continue
        with open_source(data) as source:
            for name in source.list_files(part)[:count]:
                (folder / part / Path(name).name).write_bytes(source.read(name))
    return folder


def _draw_images(folder: Path, count: int, generator: torch.Generator) -> None:
    """Write JPEGs that are as smooth as photographs, and so take as long to decode."""
    for number in range(count):
        coarse = torch.randint(256, (1, 3, 8, 8), generator=generator).float()
        image = functional.interpolate(coarse, size=32, mode="bilinear")[0]
        write_jpeg(image.to(torch.uint8), str(folder / f"{number}.jpg"))


def _compare(ones: list[Turn], others: list[Turn], device: torch.device) -> float:
    """Return how many times as fast one loop is: the median over the rounds."""
    pairs = zip(ones, others, strict=True)
    if device.type == "cuda":
        return statistics.median(one.images_per_second / other.images_per_second for one, other in pairs)
    return statistics.median(other.cpu_us_per_image / one.cpu_us_per_image for one, other in pairs)


def _print_rows(name: str, batch_size: int, row: dict[str, Any], device: torch.device) -> None:
    print(f"\n{name}, batch {batch_size}: {row['macs_per_image'] / 1e6:.1f} MMAC and ", end="")
    print(f"{row['bytes_per_image'] / 1e6:.2f} MB an image, floor {row['floor_images_per_second']:,.0f} images/s")
    print(f"{'':8}{'images/s':>10}{'us of CPU an image':>20}{'page faults a step':>20}{'loop to it':>12}")
    for kind in KINDS[device.type]:
        ratio = row.get(f"loop_to_{kind}", 1.0)
        print(f"{kind:8}{row[f'{kind}_images_per_second']:10,.0f}{row[f'{kind}_cpu_us_per_image']:20,.1f}", end="")
        print(f"{row[f'{kind}_faults_per_step']:20,.0f}{ratio:12.2f}", end="")
        print(f"  {row['usual_workers']} workers" if kind == "usual" else "", flush=True)


class _Figures(dict[str, Any]):
    """Figures that are written to disk each time one is added."""

    def __init__(self, path: Path | None, **known: Any) -> None:
        super().__init__(known, models={}, twenty_epochs_seconds={}, twenty_epochs_to_usual={})
        self._path = path

    def add(self, group: str, name: str, batch_size: int, figure: Any) -> None:
        self[group].setdefault(name, {})[str(batch_size)] = figure
        if self._path:
            self._path.write_text(json.dumps(self, indent=2) + "\n")


def _compare_all(figures: _Figures, names: list[str], kind: str, arguments: argparse.Namespace, roof: Roof) -> None:
    device, num = pick_device(), max(SIZES[kind][name] for name in names)
    rounds = arguments.rounds or (1 if arguments.short else 5)
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare(Path(scratch) / "images", arguments.data, num)
        packed = pack(folder, Path(scratch) / "cache")
        for name in names:
            found = min(SIZES[kind][name], len(open_full_train(packed, seed=0, max_images=None)))
            for size in sorted({min(size, found // 2) for size in BATCH_SIZES[kind].get(name, BATCH_SIZES[kind][""])}):
                options: dict[str, Any] = {"deterministic": arguments.deterministic, "precision": arguments.precision}
                plan = Plan(
                    config=TrainConfig(model=MODELS[name], epochs=10**6, batch_size=size, **options),
                    packed=packed,
                    folder=folder,
                    num_images=found,
                    device=device,
                    threads=torch.get_num_threads(),
                    cudnn_benchmark=arguments.cudnn_benchmark,
                    compiles=arguments.compile,
                )
                row = compare(plan, rounds, roof)
                figures.add("models", name, size, row)
                _print_rows(name, size, row, device)


def _time_all(figures: _Figures, names: list[str], kind: str, **options: Any) -> None:
    device, num = pick_device(), FULL_IMAGES[kind]
    for name in [name for name in FULL_MODELS if name in names]:
        for size in BATCH_SIZES[kind][""]:
            seconds = time_epochs(name, size, num, device, **options)
            figures.add("twenty_epochs_seconds", name, size, seconds)
            print(f"{name}: 20 epochs of {num:,} images at batch {size}: {seconds:.1f} s", end="")
            if row := figures["models"].get(name, {}).get(str(size)):
                ratio = 20 * num / seconds / row["usual_images_per_second"]
                figures.add("twenty_epochs_to_usual", name, size, ratio)
                print(f", {ratio:.1f} times as fast as the usual recipe", end="")
            print(flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or zip in CIFAKE's layout; default: made-up images")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--short", action="store_true", help="few images: does it run?")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="default: all models for this device")
    parser.add_argument("--rounds", type=int, help="timed epochs of each loop; default: 5, in a short run 1")
    parser.add_argument("--only", choices=("loops", "epochs"), help="the comparison, or the 20 epochs; default: both")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its algorithms")
    parser.add_argument("--deterministic", action="store_true", help="let our loop use only reproducible algorithms")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of `loop` and `bare`; default: auto")
    parser.add_argument("--compile", action="store_true", help="compile the loop's models")
    return parser.parse_args()


def main() -> None:
    """Measure, print and, if asked, write the figures."""
    arguments = _parse()
    warnings.simplefilter("ignore", DeprecationWarning)
    device = pick_device()
    kind = "short" if arguments.short else device.type
    if arguments.only == "epochs" and kind not in FULL_IMAGES:
        raise SystemExit("--only epochs is for a CUDA device; on a CPU add --short")
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    if arguments.compile:
        compile_models()
    keep_memory()
    roof = measure_roof(device)
    figures = _Figures(
        arguments.json,
        device=describe_device(device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        cudnn_benchmark=arguments.cudnn_benchmark,
        compile=arguments.compile,
        deterministic=arguments.deterministic,
        precision=choose_precision(arguments.precision, device),
        **dataclasses.asdict(roof),
    )
    print(f"{figures['device']}, torch {torch.__version__}, {figures['threads']} threads, ", end="")
    print(f"{figures['precision']}: ", end="")
    print(f"{roof.macs_per_second / 1e9:,.0f} GMAC/s, {roof.bytes_per_second / 1e9:,.0f} GB/s", flush=True)
    names = [name for name in SIZES[kind] if name in (arguments.models or MODELS)]
    if arguments.only != "epochs":
        _compare_all(figures, names, kind, arguments, roof)
    if arguments.only != "loops" and kind in FULL_IMAGES:
        _time_all(figures, names, kind, deterministic=arguments.deterministic, precision=arguments.precision)


if __name__ == "__main__":
    main()

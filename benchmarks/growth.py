"""Measures the cost of a search without training, by the number of trials and of slots, on a real Ray Tune.

    python -m benchmarks.growth [--trials 1 10 100 1000 2000] [--slots 1 2 4 8] [--sampler tpe] [--epochs 1]
        [--json PATH] [--plot PATH] [--short]

A formula takes the place of training; there is a journal and no tracking. Each search has a process of its own. The
clock runs during the whole of `run_study`, which starts the workers but not Ray. `late to early` is the driver's own
processor time for a trial of the last quarter, divided by that of the second quarter: it is above 1 if the cost grows
faster than the number of trials. Memory is the driver's resident set; its growth is the slope over the second half.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos import make_job
from search.cluster.job import Job, Report
from search.cluster.nodes import connect
from search.cluster.runner import run_study
from search.config.load import parse
from search.config.schema import StudyConfig
from search.record.journal import Journal
from search.record.trial import Trial
from search.study import Study

KILOBYTE, MEGABYTE = 1e3, 1e6
COLUMNS = ("slots", "trials", "ms a trial", "driver's CPU", "late to early", "driver, MB", "kB a trial")
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "batch_size": {"choice": [32, 64, 128]},
    "optimizer": {"choice": ["adam", "adamw", "sgd"]},
    "num_blocks": {"low": 2, "high": 4},
    "filters": {"choice": [16, 32, 48]},
    "dropout": {"low": 0.0, "high": 0.5},
}


class Meter:
    """Listener that notes when each trial ended, and the driver's memory then."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self._cpu: list[float] = []
        self._memory: list[int] = []

    def on_start(self, trial: Trial) -> None:
        """Do nothing at a start."""

    def on_epoch(self, trial: Trial) -> None:
        """Do nothing at an epoch."""

    def on_end(self, trial: Trial) -> None:  # noqa: ARG002 the contract's names
        """Note processor time and memory."""
        self._cpu.append(time.process_time())
        self._memory.append(self._process.memory_info().rss)

    def close(self) -> None:
        """Do nothing at the end."""

    def sum_up(self) -> dict[str, float | None]:
        """Return the figures of a search that has just ended; a figure for which there are too few trials is None."""
        count = len(self._cpu)
        quarter, half = count // 4, count // 2
        figures: dict[str, float | None] = {
            "milliseconds_per_trial": 1e3 * (time.perf_counter() - self._began) / count,
            "cpu_milliseconds_per_trial": 1e3 * (time.process_time() - self._cpu_began) / count,
            "late_to_early": None,
            "driver_bytes": max(*self._memory, self._process.memory_info().rss),
            "bytes_per_trial": None,
        }
        if quarter >= 5:
            early = self._cpu[2 * quarter - 1] - self._cpu[quarter - 1]
            figures["late_to_early"] = (self._cpu[-1] - self._cpu[-1 - quarter]) / early
            slope = statistics.linear_regression(range(half, count), self._memory[half:]).slope
            figures["bytes_per_trial"] = slope
        return figures


def build_config(trials: int, slots: int, sampler: str, epochs: int) -> StudyConfig:
    """Return a study whose trials compute a formula."""
    search = {"num_trials": trials, "max_epochs": epochs, "architectures": ["cnn"], "max_concurrent": slots}
    search |= {"sampler": sampler}
    return parse({"name": "growth", "search": search, "space": {"cnn": SPACE}, "cluster": {"cpus": slots}})


def work(job: Job) -> Iterator[Report]:
    """Report a learning curve from a formula."""
    distance = abs(math.log10(job.params["learning_rate"]) + 2.5) + job.params["dropout"]
    for epoch in range(job.epochs_done + 1, job.max_epochs + 1):
        accuracy = 0.95 - 0.1 * distance / epoch
        row = dict.fromkeys(("loss", "train_loss", "precision", "recall", "f1", "auroc"), accuracy)
        yield Report(row | {"epoch": epoch, "accuracy": accuracy, "seconds": 0.0, "images_per_second": 1.0}, "none")


def drive(folder: Path, config: StudyConfig) -> dict[str, float | None]:
    """Search once, in this process."""
    with connect(config):
        meter = Meter()
        study = Study(config, Journal(folder / "study.journal", config.name, note=print), [meter])
        run_study(
            study,
            work,
            lambda trial: make_job(trial, max_epochs=config.search.max_epochs),
            slots=config.search.max_concurrent or 1,
        )
        return meter.sum_up()


def measure(trials: int, slots: int, sampler: str, epochs: int) -> dict[str, float | None]:
    """Search once, in a new process, and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.growth", "--drive", folder, "--trials", str(trials)]
        command += ["--slots", str(slots), "--sampler", sampler, "--epochs", str(epochs)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure every number of trials with every number of slots; print the figures, write and draw them if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 10, 100, 1000, 2000])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--epochs", type=int, default=1, help="of each trial")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--plot", type=Path, help="where they are drawn, as PNG or SVG")
    parser.add_argument("--short", action="store_true", help="few trials on two slots: does it run?")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive is not None:
        config = build_config(arguments.trials[0], arguments.slots[0], arguments.sampler, arguments.epochs)
        print(json.dumps(drive(arguments.drive, config)))
        return
    counts, slots = ([2, 20], [2]) if arguments.short else (arguments.trials, arguments.slots)
    print("".join(f"{name:>15}" for name in COLUMNS))
    rows: list[dict[str, Any]] = []
    for slot in slots:
        for trials in counts:
            found = measure(trials, slot, arguments.sampler, arguments.epochs)
            rows.append({"slots": slot, "trials": trials, **found})
            print(_format(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"sampler": arguments.sampler, "rows": rows}, indent=2) + "\n")
    if arguments.plot:
        draw(rows, arguments.plot)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the cost of a trial and the driver's memory over the number of trials, a line per number of slots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    panels = (("milliseconds_per_trial", 1.0, "ms a trial"), ("driver_bytes", MEGABYTE, "driver, MB"))
    for axes, (key, unit, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for slots in sorted({row["slots"] for row in rows}):
            line = [(row["trials"], row[key] / unit) for row in rows if row["slots"] == slots]
            axes.plot(*zip(*line, strict=True), marker="o", label=f"{slots} slots")
        axes.set(xscale="log", xlabel="trials", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path)


def _format(row: dict[str, Any]) -> str:
    growth, ratio = row["bytes_per_trial"], row["late_to_early"]
    cells = [f"{row['slots']}", f"{row['trials']:,}", f"{row['milliseconds_per_trial']:.1f}"]
    cells += [f"{row['cpu_milliseconds_per_trial']:.1f}"]
    cells += ["" if ratio is None else f"{ratio:.2f}", f"{row['driver_bytes'] / MEGABYTE:.0f}"]
    cells += ["" if growth is None else f"{growth / KILOBYTE:.1f}"]
    return "".join(f"{cell:>15}" for cell in cells)


if __name__ == "__main__":
    main()

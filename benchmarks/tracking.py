"""Measures the cost of Weights & Biases for the driver: our tracker against Ray's WandbLoggerCallback, both offline.

Run `python -m benchmarks.tracking [--json PATH] [--short]`. Both log the same rows of the same trials, in turns,
each time in a new process; nothing is trained. It prints medians: seconds that the driver waits per trial and per
epoch, seconds from the first trial until all is on disk, and processor seconds of the driver in this time, threads
included. The last figure shows the work that the driver does not wait for but that takes processor time from the
search.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUM_METRICS = 8
SIDES = ("ours", "stock")


def measure(side: str, trials: int, epochs: int) -> dict[str, float]:
    """Report all trials to one side, in a new process and an empty folder, and return its figures."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "benchmarks.tracking", "--side", side, "--folder", folder]
        command += ["--trials", str(trials), "--epochs", str(epochs)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(answer.strip().splitlines()[-1])
    return figures


def _list_rows(epochs: int) -> list[dict[str, float]]:
    return [{"epoch": epoch, "accuracy": epoch / 100} | {f"m{n}": n / epoch for n in range(NUM_METRICS - 2)}
            for epoch in range(1, epochs + 1)]  # fmt: skip


def _clock(times: list[float], action: Callable[[], object]) -> None:
    begin = time.perf_counter()
    action()
    times.append(time.perf_counter() - begin)


def track_ours(folder: Path, trials: int, epochs: int) -> dict[str, float]:
    """Report the trials to our tracker."""
    from search.config.load import parse
    from search.listeners.wandb.tracker import build_tracker
    from search.record.trial import State, Trial

    config = parse({"name": "bench", "results": str(folder), "tracking": {"mode": "offline"}})
    trial_s: list[float] = []
    epoch_s: list[float] = []
    begin = time.perf_counter(), time.process_time()
    tracker = build_tracker(config, "bench", print)
    for number in range(trials):
        trial = Trial(number=number, architecture="cnn", params={"learning_rate": 0.01})
        _clock(trial_s, lambda trial=trial: tracker.on_start(trial))
        for row in _list_rows(epochs):
            trial.epochs.append(row)
            _clock(epoch_s, lambda trial=trial: tracker.on_epoch(trial))
        trial.state = State.COMPLETE
        _clock(trial_s, lambda trial=trial: tracker.on_end(trial))
    _clock(trial_s, lambda: tracker.close(60.0))
    return _sum_up(begin, trial_s, epoch_s, trials)


def track_stock(folder: Path, trials: int, epochs: int) -> dict[str, float]:
    """Report the trials to the callback of Ray Tune, which starts an actor for each trial."""
    warnings.simplefilter("ignore")
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WANDB_SILENT"] = "true"
    import ray
    from ray.air.integrations.wandb import WandbLoggerCallback

    class Stand:
        """The attributes of a Tune trial that the callback reads."""

        def __init__(self, number: int) -> None:
            self.trial_id = self.trial_name = f"bench_{number:04d}"
            self.config = {"learning_rate": 0.01}
            self.experiment_dir_name = "bench"
            self.local_path = str(folder)

        def __str__(self) -> str:
            return self.trial_id

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    trial_s: list[float] = []
    epoch_s: list[float] = []
    begin = time.perf_counter(), time.process_time()
    callback: Any = WandbLoggerCallback(project="bench", dir=str(folder), upload_timeout=60)
    callback.setup()
    for number in range(trials):
        trial = Stand(number)
        _clock(trial_s, lambda trial=trial: callback.log_trial_start(trial))
        for row in _list_rows(epochs):
            _clock(epoch_s, lambda trial=trial, row=row: callback.log_trial_result(row["epoch"], trial, row))
        _clock(trial_s, lambda trial=trial: callback.log_trial_end(trial, failed=False))
    _clock(trial_s, lambda: callback.on_experiment_end(trials=[]))
    figures = _sum_up(begin, trial_s, epoch_s, trials)
    ray.shutdown()
    return figures


def _sum_up(begin: tuple[float, float], trial_s: list[float], epoch_s: list[float], trials: int) -> dict[str, float]:
    return {
        "total_seconds": time.perf_counter() - begin[0],
        "driver_seconds": time.process_time() - begin[1],
        "seconds_per_trial": sum(trial_s) / trials,
        "seconds_per_epoch": statistics.fmean(epoch_s),
    }


def main() -> None:
    """Measure both in turns, print and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--short", action="store_true", help="few trials, one round: does it run?")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        track = track_ours if arguments.side == "ours" else track_stock
        print(json.dumps(track(arguments.folder, arguments.trials, arguments.epochs)))
        return
    trials, epochs, rounds = (4, 5, 1) if arguments.short else (arguments.trials, arguments.epochs, arguments.rounds)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            found[side].append(measure(side, trials, epochs))
    figures: dict[str, Any] = {"trials": trials, "epochs": epochs, "rounds": rounds}
    for side, measured in found.items():
        figures[side] = {name: statistics.median(figure[name] for figure in measured) for name in measured[0]}
    figures["stock_to_ours"] = figures["stock"]["total_seconds"] / figures["ours"]["total_seconds"]
    print(f"{trials} trials of {epochs} epochs with {NUM_METRICS} metrics, offline; medians of {rounds}")
    print(f"{'':7}{'s a trial':>12}{'ms an epoch':>14}{'s in all':>10}{'s computed':>12}")
    for side in SIDES:
        per_trial, per_epoch = figures[side]["seconds_per_trial"], figures[side]["seconds_per_epoch"]
        in_all = f"{figures[side]['total_seconds']:10.2f}{figures[side]['driver_seconds']:12.2f}"
        print(f"{side:7}{per_trial:12.4f}{1000 * per_epoch:14.3f}{in_all}")
    print(f"stock to ours: {figures['stock_to_ours']:.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

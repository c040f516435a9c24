"""Measures how long a recorded study takes until it can continue, in a new process.

    python -m benchmarks.resuming [--trials 100 1000 2000] [--rounds 3] [--json PATH]

A study is ready when the journal is read and checked, samplers and ASHA's rungs are rebuilt, and the next trial is
proposed (by TPE). The trials' learning curves come from a formula.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from search.config.load import load
from search.config.schema import StudyConfig
from search.record.journal import Journal
from search.study import Study


def main() -> None:
    """Record studies, resume each several times, print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.resume is not None:
        resume(arguments.resume, *arguments.trials)
        return
    figures: dict[str, dict[str, float]] = {}
    print(f"{'trials':>8}{'epochs':>8}{'journal, MB':>13}{'ready, s':>10}{'with imports, s':>17}")
    for trials in arguments.trials:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "study.journal"
            found = {"epochs": record(path, trials), "journal_bytes": path.stat().st_size}
            runs = [_time_resume(path, trials) for _ in range(arguments.rounds)]
        ready, whole = (statistics.median(values) for values in zip(*runs, strict=True))
        figures[str(trials)] = {**found, "ready_seconds": ready, "process_seconds": whole}
        print(
            f"{trials:8}{found['epochs']:8}{found['journal_bytes'] / 1e6:13.1f}{ready:10.2f}{whole:17.2f}", flush=True
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def build_config(trials: int, sampler: str) -> StudyConfig:
    """Return the reference study with a number of trials."""
    return load(Path("configs/cifake.yaml"), [f"search.num_trials={trials}", f"search.sampler={sampler}", "name=x"])


def record(path: Path, trials: int) -> int:
    """Record all trials of a study except the last one, randomly sampled; return the number of epochs."""
    study = Study(build_config(trials - 1, "random"), Journal(path, "x", note=print))
    while (trial := study.ask()) is not None:
        stop = False
        while not stop:
            epoch = len(trial.epochs) + 1
            accuracy = 0.95 - abs(trial.params["learning_rate"] - 1e-3) / epoch
            row = dict.fromkeys(("loss", "train_loss", "precision", "recall", "f1", "auroc"), accuracy)
            row |= {"epoch": epoch, "accuracy": accuracy, "seconds": 1.5, "images_per_second": 1234.5}
            stop = study.report(trial.number, row, "a closed form")
    return study.num_epochs


def resume(path: Path, trials: int) -> None:
    """Open the study and propose its last trial; print the seconds."""
    config = build_config(trials, "tpe")
    began = time.perf_counter()
    trial = Study(config, Journal(path, "x", note=print)).ask()
    assert trial is not None
    print(time.perf_counter() - began)


def _time_resume(path: Path, trials: int) -> tuple[float, float]:
    """Return the seconds until the study was ready and those of the whole process; the journal does not change."""
    before = path.read_bytes()
    command = [sys.executable, "-m", "benchmarks.resuming", "--resume", str(path), "--trials", str(trials)]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    whole = time.perf_counter() - began
    path.write_bytes(before)
    return float(done.stdout), whole


if __name__ == "__main__":
    main()

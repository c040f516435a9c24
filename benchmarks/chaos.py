"""Kills a real search again and again and counts what it loses.

    python -m benchmarks.chaos [--kills 50] [--trials 200] [--json PATH]

A closed form in place of training, so that only the search is tried; real Ray Tune, real journal. The whole process
tree is killed with SIGKILL at random moments, the study is resumed each time, and at its end compared with one that was
never killed. One trial at a time, so the two must be equal.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from search.cluster.nodes import connect
from search.config import StudyConfig, parse
from search.journal import Journal, State, Trial
from search.study import Study
from search.task import Failure, Report, Task
from search.tuner import run_study

SECONDS_PER_EPOCH = 0.05
MAX_EPOCHS = 9


def main() -> None:
    """Run the benchmark, or, with --drive, the search that it kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive is not None:
        drive(arguments.drive, arguments.trials)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.kills, arguments.trials, arguments.seed)
    for name, value in figures.items():
        print(f"{name:>24}  {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))


def measure(folder: Path, kills: int, trials: int, seed: int) -> dict[str, float]:
    """Return what was lost, repeated and different after so many kills."""
    draw = random.Random(seed)
    straight, killed = folder / "straight", folder / "killed"
    for path in (straight, killed):
        path.mkdir()
    _start(straight, trials).wait()
    began, survived = time.monotonic(), 0
    for _ in range(kills):
        process = _start(killed, trials)
        try:
            process.wait(draw.uniform(1.0, 10.0))
            break  # the study is at its end
        except subprocess.TimeoutExpired:
            _kill_tree(process)
            survived += 1
    assert _start(killed, trials).wait() == 0
    expected, found = (open_study(path, trials).trials for path in (straight, killed))
    trained = Counter((killed / "trained").read_text().splitlines())
    return {
        "kills": survived,
        "trials_lost": trials - len(found),
        "zombies": sum(trial.state is State.RUNNING for trial in found),
        "failures": sum(trial.state is State.FAIL for trial in found),
        "epochs_missing": sum(trial.epochs != _expect(trial) for trial in found),
        "differences": sum(one != other for one, other in zip(expected, found, strict=True)),
        "epochs_recorded": sum(len(trial.epochs) for trial in found),
        "epochs_repeated": sum(trained.values()) - len(trained),
        "seconds": round(time.monotonic() - began, 1),
    }


def drive(folder: Path, trials: int) -> None:
    """Search in one folder, from its journal on."""
    config = build_config(trials)
    with connect(config):
        run_study(open_study(folder, trials), make_work(folder), make_task, slots=1)


def build_config(trials: int) -> StudyConfig:
    """Return a study of one trial at a time."""
    search = {"num_trials": trials, "max_epochs": MAX_EPOCHS, "num_startup_trials": 10, "max_concurrent": 1}
    space = {"shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
    return parse({"name": "chaos", "search": search, "space": space, "cluster": {"cpus": 1}})


def open_study(folder: Path, trials: int) -> Study:
    """Open the study of a folder."""
    return Study(build_config(trials), Journal(folder / "study.journal", "chaos", note=print))


def make_task(trial: Trial, *, max_epochs: int = MAX_EPOCHS) -> Task:
    """Say what a closed form needs to know."""
    return Task(
        number=trial.number,
        architecture=trial.architecture,
        params=trial.params,
        seed=0,
        max_epochs=max_epochs,
        epochs_done=len(trial.epochs),
        pack="",
        val_fraction=0.1,
        max_train_images=None,
        split_seed=0,
        checkpoint="",
        cpus=1,
        gpus=0,
    )


def make_work(folder: Path) -> Callable[[Task], Iterator[Report | Failure]]:
    """Return a worker's function: a learning curve in closed form, with a checkpoint and a log of what it trained."""

    def work(task: Task) -> Iterator[Report | Failure]:
        checkpoint = folder / f"trial-{task.number}"
        saved = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for epoch in range(task.epochs_done + 1, task.max_epochs + 1):
            if epoch > saved:
                time.sleep(SECONDS_PER_EPOCH)
                with (folder / "trained").open("a") as log:
                    log.write(f"{task.number} {epoch}\n")
                partial = checkpoint.with_suffix(".partial")
                partial.write_text(str(epoch))
                partial.replace(checkpoint)
            yield Report(_curve(task.params, epoch), "a closed form")

    return work


def _curve(params: dict[str, Any], epoch: int) -> dict[str, float]:
    accuracy = 1.0 - params["learning_rate"] / epoch
    return {"epoch": epoch, "accuracy": accuracy, "seconds": SECONDS_PER_EPOCH, "images_per_second": 1.0}


def _expect(trial: Trial) -> list[dict[str, float]]:
    return [_curve(trial.params, epoch) for epoch in range(1, len(trial.epochs) + 1)]


def _start(folder: Path, trials: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.chaos", "--drive", str(folder), "--trials", str(trials)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill the driver and everything that it started, at once."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


if __name__ == "__main__":
    main()

"""Measures the time from the command to the first training step of `search.run`, phase by phase.

    python -m benchmarks.starting [--rounds 5] [--slots 2] [--json PATH] [--short]

The study is the default one, with the CNN alone and packed data; each round is a new process. `at` is the time since
the command and `took` the time since the phase before, both medians over the rounds. `CPU` is the processor time of the
process that reached the phase: the driver up to `study`, then the first worker. The program is watched from outside:
its functions are wrapped before it starts, and the worker's optimizer has PyTorch's own hook.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, kill_tree
from search.cluster.job import Job

PHASES = {
    "imports": "interpreter started, search.run imported",
    "data": "configuration read, pack found",
    "ray": "Ray up",
    "study": "study's folder, journal, tracker; Tune imported",
    "worker": "first worker started, with Ray, Tune and torch",
    "images": "its images opened",
    "step": "its first training step done",
}
MARKS = "BENCHMARK_MARKS"
"""Environment variable, inherited by Ray's workers: the file that gets a line for each mark."""
LIMIT_S = 300.0
DRIVE = "from benchmarks.starting import drive; drive()"


def mark(phase: str) -> None:
    """Append the phase that this process has reached, the time, and its processor time so far."""
    with Path(os.environ[MARKS]).open("a", encoding="utf-8") as file:
        file.write(f"{phase} {time.time()!r} {os.getpid()} {time.process_time()!r}\n")


def drive() -> None:
    """Run the program with the arguments of this process, watched."""
    import typer

    import search.run

    mark("imports")
    search.run.prepare_data = _watch(search.run.prepare_data, after="data")
    search.run.open_study = _watch(search.run.open_study, before="ray")
    search.run.build_job = _watch(search.run.build_job, before="study")
    search.run.run_trial = run_trial
    typer.run(search.run.main)


def run_trial(deliver: Callable[[], str], job: Job) -> Iterator[Any]:
    """Train a trial in a worker, watched."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from search.cluster import worker

    mark("worker")
    worker.open_train = _watch(worker.open_train, after="images")
    register_optimizer_step_post_hook(lambda *_: mark("step"))
    return worker.run_job(deliver, None, job)


def _watch(function: Callable[..., Any], *, before: str | None = None, after: str | None = None) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if before:
            mark(before)
        result = function(*args, **kwargs)
        if after:
            mark(after)
        return result

    return watched


def measure(folder: Path, cache: Path, slots: int) -> dict[str, dict[str, float]]:
    """Start the program in a new process, wait for its first training step, and kill it; return the time of each phase.

    Raises:
        RuntimeError: If it ends, or the time limit is reached, before that.
    """
    marks = folder / "marks"
    settings = ["search.architectures=[cnn]", "search.shares={cnn: 1}", "search.first=[]", f"cluster.cpus={slots}"]
    settings += [f"data.cache={cache}", f"results={folder}", f"search.num_trials={slots}", "tracking.mode=offline"]
    command = [sys.executable, "-c", DRIVE, "configs/local.yaml", *(f"--set={setting}" for setting in settings)]
    with (folder / "output").open("w+", encoding="utf-8") as output:
        began = time.time()
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {MARKS: str(marks)}, stdout=output, stderr=output
        )
        try:
            while not (found := _read(marks, began)).keys() >= PHASES.keys():
                if process.poll() is not None or time.time() - began > LIMIT_S:
                    output.seek(0)
                    raise RuntimeError(f"no training step: {output.read()[-2000:]}")
                time.sleep(0.1)
        finally:
            kill_tree(process)
    return found


def _read(marks: Path, began: float) -> dict[str, dict[str, float]]:
    """Return the first marks of the driver and of its first worker: seconds since the command, and processor time."""
    found: dict[str, dict[str, float]] = {}
    spent: dict[str, float] = {}
    for line in marks.read_text(encoding="utf-8").splitlines() if marks.exists() else []:
        phase, moment, process, cpu = line.split()
        if phase not in found and (process in spent or phase in ("imports", "worker")):
            found[phase] = {"seconds": float(moment) - began, "cpu_seconds": float(cpu) - spent.get(process, 0.0)}
            spent[process] = float(cpu)
    return found


def main() -> None:
    """Measure, print and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=2, help="trials that start at once, one core each")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--short", action="store_true", help="one round: does it run?")
    arguments = parser.parse_args()
    rounds = 1 if arguments.short else arguments.rounds
    found: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        cache = Path(scratch) / "cache"
        _pack(cache)
        for number in range(rounds):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            found.append(measure(folder, cache, arguments.slots))
    phases = {
        phase: {key: statistics.median(each[phase][key] for each in found) for key in ("seconds", "cpu_seconds")}
        for phase in PHASES
    }
    print(f"{'phase':10}{'at, s':>8}{'took, s':>9}{'CPU, s':>8}   medians of {rounds}, {arguments.slots} slots")
    before = 0.0
    for phase, figures in phases.items():
        took, before = figures["seconds"] - before, figures["seconds"]
        print(f"{phase:10}{before:8.2f}{took:9.2f}{figures['cpu_seconds']:8.2f}   {PHASES[phase]}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rounds, "slots": arguments.slots, "phases": phases}) + "\n")


def _pack(cache: Path) -> None:
    from rich.console import Console

    from search.config.load import load
    from search.datasets.prepare import prepare_data

    prepare_data(load(ROOT / "configs/local.yaml", [f"data.cache={cache}"]), Console(quiet=True))


if __name__ == "__main__":
    main()

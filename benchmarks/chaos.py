"""Kills a real search again and again and counts what it loses.

    python -m benchmarks.chaos [--kills 50] [--trials 200] [--infrastructure] [--json PATH]

A formula takes the place of training, so that only the search is tested, with real Ray Tune and a real journal. The
whole process tree is killed with SIGKILL at random moments, and the study is resumed each time. At its end it is
compared with a study that was never killed. One trial runs at a time, so both studies must be equal.

With --infrastructure one process at a time is killed, any of those that Ray and W&B started. Within HANG_S the search
must then continue by itself, or end with a sentence and be resumable.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import typer

from benchmarks.processes import kill_tree, list_family
from search.cluster.job import Job, Report, Work
from search.cluster.nodes import connect
from search.cluster.runner import run_study
from search.commands.terminal import explain_errors
from search.config.load import parse
from search.config.schema import StudyConfig
from search.listeners.wandb.tracker import build_tracker
from search.record.journal import Journal
from search.record.trial import State, Trial
from search.study import Study

SECONDS_PER_EPOCH = 0.05
MAX_EPOCHS = 9
SLOW_S = 0.2
"""Seconds per epoch if single processes are killed, so that the search lasts longer than the kills."""
HANG_S = 60.0
"""Seconds after a kill within which the search continues or has ended."""
START_S = 300.0
"""Seconds that the search may take to start."""
SETTLE_S = 5.0
"""Seconds after a kill in which training does not yet show that the search continues: a death may take effect late."""


def main() -> None:
    """Run the benchmark, or, with --drive, the search that it kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--infrastructure", action="store_true", help="Kill single processes of Ray and W&B.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive is not None:
        try:
            drive(arguments.drive, arguments.trials, is_slow=arguments.infrastructure)
        except typer.Exit as end:
            sys.exit(end.exit_code)
        return
    with tempfile.TemporaryDirectory() as folder:
        find = measure_infrastructure if arguments.infrastructure else measure
        figures = find(Path(folder), arguments.kills, arguments.trials, arguments.seed)
    for name, value in figures.items():
        print(f"{name:>24}  {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))


def measure(folder: Path, kills: int, trials: int, seed: int) -> dict[str, Any]:
    """Return how many trials and epochs were lost, repeated or different after a number of kills."""
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
            break  # the study has ended
        except subprocess.TimeoutExpired:
            kill_tree(process)
            survived += 1
    assert _start(killed, trials).wait() == 0
    expected = open_study(straight, trials).trials
    return {"kills": survived, **_compare(expected, killed, trials), "seconds": round(time.monotonic() - began, 1)}


def measure_infrastructure(folder: Path, kills: int, trials: int, seed: int) -> dict[str, Any]:
    """Kill single processes; return the outcomes by kind of process, and what was lost, repeated or different.

    A kill after which the search neither continues nor ends within HANG_S is a hang. An end without a sentence that
    says how to continue is unexplained.
    """
    draw = random.Random(seed)
    straight, killed = folder / "straight", folder / "killed"
    for path in (straight, killed):
        path.mkdir()
    expected = _search_alone(straight, trials)
    began, outcomes = time.monotonic(), Counter[tuple[str, str]]()
    while outcomes.total() < kills:
        process = _start(killed, trials, "--infrastructure", log=killed / "log")
        try:
            while outcomes.total() < kills and _await_progress(killed, process, patience_s=START_S) == "continues":
                time.sleep(draw.uniform(0.0, 5.0))
                family = {kind: pid for pid, kind in list_infrastructure(process.pid)}
                if not family:
                    break
                kind = draw.choice(sorted(family))
                os.kill(family[kind], signal.SIGKILL)
                outcome = _await_progress(killed, process, settle_s=SETTLE_S)
                outcomes[kind, outcome] += 1
                print(f"{outcomes.total():4} {kind}: {outcome}", flush=True)
        finally:
            kill_tree(process)
        if process.returncode == 0:
            break
    last = _start(killed, trials, "--infrastructure", log=killed / "log")
    try:
        assert last.wait() == 0
    finally:
        kill_tree(last)
    return {
        "kills": outcomes.total(),
        "hangs": sum(count for (_, outcome), count in outcomes.items() if outcome == "hangs"),
        "unexplained": sum(count for (_, outcome), count in outcomes.items() if outcome == "ends unexplained"),
        "by_kind": {" ".join(known): count for known, count in sorted(outcomes.items())},
        **_compare(expected, killed, trials),
        "seconds": round(time.monotonic() - began, 1),
    }


def _compare(expected: list[Trial], killed: Path, trials: int) -> dict[str, float]:
    """Return what a killed study lost, repeated, and recorded differently, compared with one that was not killed."""
    found = open_study(killed, trials).trials
    trained = Counter((killed / "trained").read_text().splitlines())
    return {
        "trials_lost": trials - len(found),
        "zombies": sum(trial.state is State.RUNNING for trial in found),
        "failures": sum(trial.state is State.FAIL for trial in found),
        "epochs_missing": sum(trial.epochs != _expect(trial) for trial in found),
        "differences": sum(one != other for one, other in zip(expected, found, strict=True)),
        "epochs_recorded": sum(len(trial.epochs) for trial in found),
        "epochs_repeated": sum(trained.values()) - len(trained),
    }


def _search_alone(folder: Path, trials: int) -> list[Trial]:
    """Search in this process, without Ray, and return the trials."""
    study, work = open_study(folder, trials), make_work(folder, pause_s=0.0)
    while (trial := study.ask()) is not None:
        for message in work(make_job(trial)):
            assert isinstance(message, Report)
            if study.report(trial.number, message.metrics, message.device):
                break
    return study.trials


def _await_progress(
    folder: Path, process: subprocess.Popen[bytes], *, settle_s: float = 0.0, patience_s: float = HANG_S
) -> str:
    """Wait until the search continues to train, or ends, and say which."""
    until = time.monotonic() + patience_s
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(settle_s)
    before = _count_trained(folder)
    while process.poll() is None and time.monotonic() < until:
        if _count_trained(folder) > before:
            return "continues"
        time.sleep(0.1)
    if process.poll() is None:
        return "hangs"
    if process.returncode == 0:
        return "has ended"
    said = (folder / "log").read_text(errors="replace")
    return "ends resumable" if process.returncode == 1 and "continues from here" in said else "ends unexplained"


def _count_trained(folder: Path) -> int:
    path = folder / "trained"
    return path.stat().st_size if path.exists() else 0


def list_infrastructure(pid: int) -> list[tuple[int, str]]:
    """Return number and kind of all processes that a search started."""
    found = []
    for process in list_family(pid)[1:]:
        with contextlib.suppress(psutil.Error):
            title = process.cmdline() or [process.name()]
            kind = Path(title[0].partition("(")[0].split(" ")[0]).name
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append((process.pid, kind))
    return found


def drive(folder: Path, trials: int, *, is_slow: bool = False) -> None:
    """Search in a folder, or continue its study; a slow search has an offline run in W&B for each trial."""
    config = build_config(trials, results=str(folder))
    with explain_errors("the same command"), contextlib.ExitStack() as stack:
        stack.enter_context(connect(config))
        if not is_slow:
            run_study(open_study(folder, trials), make_work(folder), make_job, slots=1)
            return
        tracker = build_tracker(config, "chaos", lambda said: print(said, file=sys.stderr))
        stack.callback(tracker.close)
        study = Study(config, Journal(folder / "study.journal", "chaos", note=print), [tracker])
        run_study(study, make_work(folder, pause_s=SLOW_S), make_job, slots=1)


def build_config(trials: int, results: str = "results") -> StudyConfig:
    """Return a study of one trial at a time."""
    search = {"num_trials": trials, "max_epochs": MAX_EPOCHS, "num_startup_trials": 10, "max_concurrent": 1}
    space = {"shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
    places = {"results": results, "cluster": {"cpus": 1}, "tracking": {"mode": "offline"}}
    return parse({"name": "chaos", "search": search, "space": space, **places})


def open_study(folder: Path, trials: int) -> Study:
    """Open the study of a folder."""
    return Study(build_config(trials), Journal(folder / "study.journal", "chaos", note=print))


def make_job(trial: Trial, *, max_epochs: int = MAX_EPOCHS) -> Job:
    """Return a job whose learning curve is a formula."""
    return Job(
        label=f"trial-{trial.number}",
        number=trial.number,
        architecture=trial.architecture,
        params=trial.params,
        seed=0,
        max_epochs=max_epochs,
        epochs=max_epochs,
        epochs_done=len(trial.epochs),
        pack="",
        val_fraction=0.1,
        max_train_images=None,
        split_seed=0,
        checkpoint=None,
        cpus=1,
        gpus=0,
    )


def make_work(folder: Path, pause_s: float = SECONDS_PER_EPOCH) -> Work:
    """Return a worker's function: a learning curve from a formula, with a checkpoint and a log of its epochs."""

    def work(job: Job) -> Iterator[Report]:
        checkpoint = folder / f"trial-{job.number}"
        saved = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for epoch in range(job.epochs_done + 1, job.max_epochs + 1):
            if epoch > saved:
                time.sleep(pause_s)
                with (folder / "trained").open("a") as log:
                    log.write(f"{job.number} {epoch}\n")
                partial = checkpoint.with_suffix(".partial")
                partial.write_text(str(epoch))
                partial.replace(checkpoint)
            yield Report(_curve(job.params, epoch), "a closed form")

    return work


def _curve(params: dict[str, Any], epoch: int) -> dict[str, float]:
    accuracy = 1.0 - params["learning_rate"] / epoch
    return {"epoch": epoch, "accuracy": accuracy, "seconds": SECONDS_PER_EPOCH, "images_per_second": 1.0}


def _expect(trial: Trial) -> list[dict[str, float]]:
    return [_curve(trial.params, epoch) for epoch in range(1, len(trial.epochs) + 1)]


def _start(folder: Path, trials: int, *options: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.chaos", "--drive", str(folder), "--trials", str(trials), *options]
    with (log or Path(os.devnull)).open("wb") as said:
        return subprocess.Popen(command, stderr=said, start_new_session=True)


if __name__ == "__main__":
    main()

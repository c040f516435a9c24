"""Ours: `python -m search.run` itself, up to the evaluation, which the peers do not have; W&B offline."""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import search.run
from benchmarks.peers.plan import Plan, note, tell, watch_first_step
from search.cluster.job import Failure, Finished, Job, Report
from search.record.journal import Journal
from search.record.trial import State


def main(folder: Path) -> None:
    """Search, or continue the search in the folder."""
    plan = Plan.read(folder)
    precision = "auto" if plan.precision == "own" else plan.precision
    study = {
        "name": "ours",
        "results": str(folder),
        "data": {"path": plan.data, "cache": str(folder / "cache"), "val_fraction": plan.val_fraction},
        "search": {
            "architectures": ["cnn"],
            "num_trials": len(plan.configs),
            "max_epochs": plan.epochs,
            "grace_epochs": plan.epochs,
            "max_concurrent": plan.slots,
        },
        "recipes": [{"architecture": "cnn", "params": {**params, "precision": precision}} for params in plan.configs],
        "space": {
            "shared": {"precision": precision},
            "cnn": {"learning_rate": {"low": 1e-6, "high": 1.0, "log": True}, **_list_choices(plan)},
        },
        "cluster": {"cpus": plan.slots},
        "tracking": {"mode": "offline"},
    }
    (folder / "study.yaml").write_text(json.dumps(study), encoding="utf-8")  # JSON is YAML, and 1e-06 a number in it
    search.run.run_trial = functools.partial(run_trial, folder)
    held: list[int] = []
    search.run.evaluate = lambda opened, *_: held.append(count_epochs(opened.journal))
    search.run.main(folder / "study.yaml", resume=(folder / "ours").exists(), plain=True)
    tell(held[0])


def run_trial(folder: Path, deliver: Callable[[], str], job: Job) -> Iterator[Report | Finished | Failure]:
    """Train a trial and note its epochs, as the peers do."""
    from search.cluster.worker import run_job

    watch_first_step(folder)
    for message in run_job(deliver, None, job):
        if isinstance(message, Report):
            metrics = message.metrics
            note(folder, job.params["learning_rate"], int(metrics["epoch"]), metrics["seconds"])
        yield message


def count_epochs(journal: Journal) -> int:
    """Return the number of recorded epochs of all trials that have ended."""
    return sum(len(trial.epochs) for trial in journal.load() if trial.state is State.COMPLETE)


def _list_choices(plan: Plan) -> dict[str, dict[str, list[object]]]:
    names = [name for name in plan.configs[0] if name != "learning_rate"]
    return {name: {"choice": list(dict.fromkeys(config[name] for config in plan.configs))} for name in names}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

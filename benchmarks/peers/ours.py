"""Ours: what `python -m search.run` does up to the evaluation, which the peers do not have; W&B offline."""

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.peers.training import Plan, note, tell
from search.checkpoints import Checkpoints
from search.cluster.nodes import connect
from search.config import parse
from search.journal import Journal, State
from search.prepare import prepare_data
from search.run import build_task
from search.study import Study
from search.task import Failure, Report, Task
from search.tracking.tracker import build_tracker
from search.trial import run_trial
from search.tuner import run_study


def main(folder: Path) -> None:
    """Search, from the journal on."""
    plan = Plan.read(folder)
    config = parse({
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
        "recipes": [{"architecture": "cnn", "params": params} for params in plan.configs],
        "space": {"cnn": {"learning_rate": {"low": 1e-6, "high": 1.0, "log": True}, **_list_choices(plan)}},
        "cluster": {"cpus": plan.slots},
        "tracking": {"mode": "offline"},
    })  # fmt: skip
    console = Console(quiet=True)
    packed = prepare_data(config, console)
    config.directory.mkdir(exist_ok=True)

    def work(task: Task) -> Iterator[Report | Failure]:
        for message in run_trial(task):
            if isinstance(message, Report):
                metrics = message.metrics
                note(folder, task.params["learning_rate"], int(metrics["epoch"]), metrics["seconds"])
            yield message

    with connect(config):
        tracker = build_tracker(config, "bench", console.print)
        checkpoints = Checkpoints(config.directory / "checkpoints")
        study = Study(config, Journal(config.journal, config.name, note=console.print), [checkpoints, tracker])
        run_study(
            study,
            work,
            lambda trial: build_task(config, trial, packed, checkpoints.get_path(trial.number)),
            slots=plan.slots,
        )
        tracker.close()
    tell(sum(len(trial.epochs) for trial in study.trials if trial.state is State.COMPLETE))


def _list_choices(plan: Plan) -> dict[str, dict[str, list[object]]]:
    names = [name for name in plan.configs[0] if name != "learning_rate"]
    return {name: {"choice": list(dict.fromkeys(config[name] for config in plan.configs))} for name in names}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

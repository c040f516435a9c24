"""Ray Tune as its guides show it: OptunaSearch, ASHAScheduler, WandbLoggerCallback, a checkpoint with each report.

Sources, docs.ray.io, tune/examples: tune-pytorch-cifar, optuna_example, tune-wandb; tune/tutorials/tune-fault-tolerance
for `Tuner.restore`.
"""

import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import optuna  # noqa: F401 before torch, otherwise Ray says that it is missing (ray#65376)
import ray
import torch
from ray import tune
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.peers.plan import Plan, tell
from benchmarks.peers.training import train


def train_cifake(config: dict[str, Any], plan: Plan, folder: Path) -> None:
    """Train one trial, from its checkpoint if there is one."""
    state = None
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as directory:
            state = torch.load(Path(directory) / "checkpoint.pt")
    for metrics, state_after in train(config, plan, folder, state):
        with tempfile.TemporaryDirectory() as directory:
            torch.save(state_after, Path(directory) / "checkpoint.pt")
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))


def main(folder: Path) -> None:
    """Search, or continue the search in the folder."""
    os.environ["WANDB_MODE"] = "offline"
    plan = Plan.read(folder)
    ray.init(address="local", num_cpus=plan.slots, include_dashboard=False, log_to_driver=False)
    trainable = tune.with_resources(functools.partial(train_cifake, plan=plan, folder=folder), {"cpu": 1})
    place = folder / "ray" / "cifake"
    if tune.Tuner.can_restore(str(place)):
        tuner = tune.Tuner.restore(str(place), trainable, resume_errored=True)
    else:
        tuner = _build_tuner(plan, folder, trainable)
    results = tuner.fit()
    tell(sum(int(result.metrics["epoch"]) for result in results if result.metrics and "epoch" in result.metrics))


def _build_tuner(plan: Plan, folder: Path, trainable: Any) -> tune.Tuner:
    choices = {name: tune.choice(sorted({config[name] for config in plan.configs})) for name in plan.configs[0]}
    return tune.Tuner(
        trainable,
        param_space={**choices, "learning_rate": tune.loguniform(1e-6, 1.0)},
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            search_alg=OptunaSearch(points_to_evaluate=plan.configs),
            scheduler=ASHAScheduler(time_attr="epoch", max_t=plan.epochs, grace_period=plan.epochs),
            num_samples=len(plan.configs),
            max_concurrent_trials=plan.slots,  # otherwise Tune asks the searcher for one pending trial at a time
        ),
        run_config=tune.RunConfig(
            name="cifake",
            storage_path=str(folder / "ray"),
            callbacks=[WandbLoggerCallback(project="cifake", dir=str(folder))],
        ),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

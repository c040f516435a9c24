"""Optuna alone: processes that share a journal file, SuccessiveHalvingPruner.

Sources, optuna.readthedocs.io: tutorial/10_key_features/004_distributed, tutorial/20_recipes/011_journal_storage,
Study.enqueue_trial; the example pytorch_simple.py. They keep no checkpoints, and a JournalStorage has no heartbeat, so
a trial whose process was killed stays RUNNING and is not tried again: all its epochs are lost.
"""

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from benchmarks.peers.plan import Plan, tell
from benchmarks.peers.training import train


def open_study(folder: Path, plan: Plan) -> optuna.Study:
    """Open the study, or make it."""
    return optuna.create_study(
        study_name="cifake",
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        direction="maximize",
        # A later step than the last epoch: at the last one, most trials would end as pruned although they are fully
        # trained.
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=plan.epochs + 1),
        load_if_exists=True,
    )


def work(folder: Path) -> None:
    """Train trials until the study has enough."""
    plan = Plan.read(folder)

    def objective(trial: optuna.Trial) -> float:
        config: dict[str, Any] = {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1.0, log=True)}
        for name in sorted(plan.configs[0].keys() - config.keys()):
            config[name] = trial.suggest_categorical(name, sorted({known[name] for known in plan.configs}))
        accuracy = 0.0
        for metrics, _ in train(config, plan, folder):
            accuracy = metrics["accuracy"]
            trial.report(accuracy, int(metrics["epoch"]))
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    study = open_study(folder, plan)
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.optimize(objective, n_trials=1)


def main(folder: Path) -> None:
    """Search, or continue the search in the folder."""
    plan = Plan.read(folder)
    study = open_study(folder, plan)
    if not study.trials:
        for config in plan.configs:
            study.enqueue_trial(config)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(folder,)) for _ in range(plan.slots)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    planned = {config["learning_rate"] for config in plan.configs}  # two processes may start one trial too many
    tell(sum(len(trial.intermediate_values) for trial in complete if trial.params["learning_rate"] in planned))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

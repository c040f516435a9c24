"""Syne Tune: LocalBackend, which starts a process for each trial, and ASHA. Needs the extra `peers`.

Sources, syne-tune.readthedocs.io: getting_started, examples/launch_height_baselines. A killed search is loaded with
`Tuner.load` and run again; Syne Tune offers no more.
"""

import os
import sys
from pathlib import Path

from syne_tune import StoppingCriterion, Tuner
from syne_tune.backend import LocalBackend
from syne_tune.config_space import choice, loguniform
from syne_tune.optimizer.baselines import ASHA

from benchmarks.peers.plan import Plan, tell


def main(folder: Path) -> None:
    """Search, or continue the search in the folder."""
    os.environ["SYNETUNE_FOLDER"] = str(folder)
    plan = Plan.read(folder)
    place = folder / "syne"
    tuner = Tuner.load(str(place)) if (place / "tuner.dill").exists() else _build_tuner(plan, folder)
    tuner.run()
    reached = tuner.tuning_status.trial_metric_statistics.values()
    tell(sum(int(known.max_metrics.get("epoch", 0)) for known in reached))


def _build_tuner(plan: Plan, folder: Path) -> Tuner:
    choices = {name: choice(sorted({config[name] for config in plan.configs})) for name in plan.configs[0]}
    space = {**choices, "learning_rate": loguniform(1e-6, 1.0), "folder": str(folder)}
    return Tuner(
        trial_backend=LocalBackend(str(Path(__file__).with_name("syne_trial.py")), pass_args_as_json=True),
        scheduler=ASHA(
            space,
            metric="accuracy",
            time_attr="epoch",
            max_t=plan.epochs,
            grace_period=plan.epochs,
            do_minimize=False,
            random_seed=0,
            points_to_evaluate=[{**config, "folder": str(folder)} for config in plan.configs],
        ),
        stop_criterion=StoppingCriterion(max_num_trials_started=len(plan.configs) - 1),  # it stops above that
        wait_trial_completion_when_stopping=True,
        n_workers=plan.slots,
        sleep_time=0.5,  # seconds between two checks of the workers; the default of 5 is meant for longer trials
        tuner_name="syne",
        suffix_tuner_name=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

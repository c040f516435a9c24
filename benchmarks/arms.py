"""The arms that `benchmarks.replay` compares: sampler, scheduler and first rung."""

from typing import Any

BASELINE = "random + asha"
DEFAULT = "portfolio 10 + asha from 3"
"""The default of search/config/search.py."""
BEFORE = "tpe 10 + asha from 3"
"""The default until 2026-11-29."""
ARMS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "scheduler": "none"},
    "random + asha": {"sampler": "random", "scheduler": "asha", "grace_epochs": 1},
    "random + asha from 3": {"sampler": "random", "scheduler": "asha", "grace_epochs": 3},
    "random + hyperband": {"sampler": "random", "scheduler": "hyperband"},
    "random + median": {"sampler": "random", "scheduler": "median", "grace_epochs": 1},
    "qmc + asha": {"sampler": "qmc", "scheduler": "asha", "grace_epochs": 1},
    "tpe 10": {"sampler": "tpe", "scheduler": "none"},
    "tpe 6 + asha": {"sampler": "tpe", "num_startup_trials": 6, "scheduler": "asha", "grace_epochs": 1},
    "tpe 10 + asha": {"sampler": "tpe", "scheduler": "asha", "grace_epochs": 1},
    "tpe 20 + asha": {"sampler": "tpe", "num_startup_trials": 20, "scheduler": "asha", "grace_epochs": 1},
    "tpe 40 + asha": {"sampler": "tpe", "num_startup_trials": 40, "scheduler": "asha", "grace_epochs": 1},
    "tpe 10 + asha from 3": {"sampler": "tpe", "scheduler": "asha"},
    "tpe 5 + asha from 3": {"sampler": "tpe", "num_startup_trials": 5, "scheduler": "asha"},
    "tpe 20 + asha from 3": {"sampler": "tpe", "num_startup_trials": 20, "scheduler": "asha"},
    "tpe 40 + asha from 3": {"sampler": "tpe", "num_startup_trials": 40, "scheduler": "asha"},
    "tpe 10 from qmc + asha from 3": {"sampler": "tpe", "scheduler": "asha"},
    "tpe 10 + asha by 2 from 5": {"sampler": "tpe", "scheduler": "asha", "reduction_factor": 2.0},
    "tpe 10 + asha by 4 from 3": {"sampler": "tpe", "scheduler": "asha", "reduction_factor": 4.0},
    "tpe multivariate 10 + asha from 3": {"sampler": "tpe_multivariate", "scheduler": "asha"},
    "tpe 10 + hyperband": {"sampler": "tpe", "scheduler": "hyperband"},
    "tpe 10 + median": {"sampler": "tpe", "scheduler": "median", "grace_epochs": 1},
    "portfolio 10 + asha from 3": {"sampler": "portfolio", "scheduler": "asha"},
    "portfolio 10 + asha": {"sampler": "portfolio", "scheduler": "asha", "grace_epochs": 1},
    "tpe tame 10 + asha from 3": {"sampler": "tpe_tame", "scheduler": "asha"},
    "gp rungs 10 + asha from 3": {"sampler": "gp_rungs", "scheduler": "asha"},
    "gp 10": {"sampler": "gp", "scheduler": "none"},
    "gp 10 + asha": {"sampler": "gp", "scheduler": "asha", "grace_epochs": 1},
}
"""Name -> keys of `search`. Where an arm sets no first rung, the rung follows from the reduction factor. With factors
3, 4 and 2 it is epoch 3, 3 and 5 of CIFAKE's 9, and epoch 18, 13 and 26 of LCBench's 52. As in any study, it is lower
if the budget is below ten full trainings."""
QMC_STARTS = {"tpe 10 from qmc + asha from 3": 10}
"""Arm -> number of its first trials that are points of the qmc sampler, given as by `search.first`, in place of random
ones."""
SLOW = ("gp", "syne ashacqr")
"""Samplers, and arms of peers, with a tenth of the repetitions, because they are slow."""
USUAL = (BASELINE, DEFAULT, BEFORE)
"""Arms that run if none is named: the ones between which a user decides. They take four minutes on two cores."""

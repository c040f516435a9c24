"""The keys of `search` in a study's YAML file: trials, how they are proposed, and when they stop."""

import dataclasses
import math
from typing import Annotated, Literal

from pydantic import Field

from search.config.fields import GOALS, Amount, Architecture, Count, Finite, Label, MetricName, OwnName, Positive
from trainables.names import shorten

NUM_FEW = 10
"""With fewer full trainings than this, ASHA's first rung is lower. Source: LOG.md, 2026-11-29."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """The trials: how many, how long, how they are proposed and when they stop."""

    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1)] = ("cnn", "resnet50")
    """Architectures to search. Each has its own sampler history and its own rungs."""
    shares: dict[Label, Positive] | None = None
    """Weight of each architecture when the search divides what `divide` names; null gives all the same weight."""
    divide: Literal["trials", "epochs", "seconds", "value"] = "trials"
    """What the shares divide: the number of trials, the epochs trained, or the seconds of training, multiplied by the
    granted GPUs (by the CPUs if an architecture has no GPU). value divides trials, but gives none to an architecture
    that has finished `min_trials` and at least 8 trials and is so far behind that the remaining trials cannot make it
    the best (search/samplers/rising.py)."""
    min_trials: Count = 1
    """Trials that each architecture gets before the shares apply."""
    metric: MetricName = "accuracy"
    """Validation metric by which trials are compared: accuracy, auroc, f1, loss or average_precision; for a
    training function of your own, any that it yields."""
    goal: Literal["max", "min"] | None = None
    """Whether larger or smaller values of the metric are better; null is max, and min for loss."""
    num_trials: Count = 20
    """Number of trials of the search."""
    max_epochs: Count | dict[Label, Count] = 10
    """Epochs of a trial that is not stopped, or a number for each architecture; the learning-rate schedule spans
    them."""
    max_hours: Positive | None = None
    """Hours after which the search ends, summed over all resumptions; null sets no limit."""
    max_total_epochs: Count | None = None
    """Epochs of all trials together after which the search ends; null sets no limit."""
    patience_trials: Count | None = None
    """Number of finished trials, stopped ones included, without a better value of any architecture, after which the
    search ends; null sets no limit."""
    target: Finite | None = None
    """Value of the metric at which the search ends; null sets none."""
    max_concurrent: Count | None = None
    """Trials that run at the same time, at most; null runs as many as the resources allow."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How many times a trial or a retraining may lose its worker process and continue. Workers that are lost with their
    node do not count."""
    trial_timeout_s: Positive | None = None
    """Seconds without a finished epoch after which a running trial fails; null sets no limit."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Root of every random draw of the study."""
    sampler: (
        Literal["tpe", "tpe_multivariate", "tpe_tame", "random", "gp", "gp_rungs", "portfolio", "qmc"] | OwnName
    ) = "portfolio"
    """How parameters are proposed. portfolio draws one of random, tpe_tame and gp_rungs for each proposal. On trainings
    on which it was not tuned, it was clearly better than random search with ASHA, and nowhere worse than tpe (LOG.md,
    2026-11-29). `module:Name` is any sampler with Optuna's interface."""
    repeat: bool = False
    """Whether a configuration that was a trial may be proposed again; with false the search ends if none is left."""
    num_startup_trials: Count = 10
    """Random trials of an architecture before the sampler's model proposes. For gp only trials that were not stopped
    count."""
    scheduler: Literal["asha", "hyperband", "median", "none"] | OwnName = "asha"
    """How trials that are worse than others are stopped early. `module:Name` is a class of your own."""
    grace_epochs: Count | Literal["auto"] | None = "auto"
    """First rung: no trial is stopped before this epoch. auto is max_epochs / reduction_factor, rounded up, because
    early epochs mislead the sampler (LOG.md, 2026-11-24); with hyperband it is 1. With asha, an architecture whose
    share of max_total_epochs is less than ten full trainings gets max_epochs / reduction_factor**2. null is as auto,
    without this exception."""
    reduction_factor: Annotated[float, Field(ge=1.01, lt=1000)] = 3.0
    """One in this many trials survives a rung, and each rung is this many times as late as the one before."""
    patience_epochs: Count | None = None
    """Epochs without a better validation metric after which a trial is COMPLETE; null sets no limit. With a cosine or
    one-cycle schedule much of the gain comes in the last epochs, which such a trial does not reach."""
    patience_delta: Amount = 0.0
    """How much better a validation metric must be to count as better for `patience_epochs`, in the metric's unit."""
    first: tuple[str, ...] = ()
    """Recipe files, relative to the study's file; their configurations are the first trials. With
    `evaluation.baselines` they may be outside the space; samplers do not learn from such a trial."""
    learn_from: tuple[str, ...] = ()
    """Earlier studies, as folders or URLs: their COMPLETE and PRUNED trials in this study's space are history for the
    samplers and count for `num_startup_trials`, and for nothing else. They are copied when the study starts."""
    spare_first: bool = False
    """Whether the scheduler stops none of the trials of `first`, so that their learning curves are complete."""

    @property
    def sign(self) -> int:
        """1 if larger values of the metric are better, -1 if smaller ones are."""
        return -1 if (self.goal or GOALS.get(self.metric)) == "min" else 1

    def count_epochs(self, architecture: str) -> int:
        """Return the epochs of an architecture's trial that is not stopped."""
        if isinstance(self.max_epochs, int):
            return self.max_epochs
        return self.max_epochs.get(shorten(architecture), max(self.max_epochs.values()))  # of an earlier configuration

    def describe_epochs(self) -> str:
        """Return the epochs of a trial that is not stopped, in words."""
        if isinstance(self.max_epochs, int):
            return f"{self.max_epochs} epochs"
        return " or ".join(f"{count} epochs ({name})" for name, count in self.max_epochs.items())

    def find_first_rung(self, architecture: str) -> int:
        """Return the epoch before which no trial of an architecture is stopped."""
        if isinstance(self.grace_epochs, int):
            return self.grace_epochs
        if self.scheduler == "hyperband":
            return 1
        is_small = self.scheduler == "asha" and self.count_trainings(architecture) < NUM_FEW
        steps = 2 if is_small and self.grace_epochs == "auto" else 1
        return math.ceil(self.count_epochs(architecture) / self.reduction_factor**steps)

    def count_trainings(self, architecture: str) -> float:
        """Return how many full trainings an architecture's share of `max_total_epochs` holds."""
        if self.max_total_epochs is None:
            return math.inf
        shares = {name: (self.shares or {}).get(shorten(name), 1.0) for name in (*self.architectures, architecture)}
        share = shares[architecture] / sum(shares.values())
        return self.max_total_epochs * share / self.count_epochs(architecture)

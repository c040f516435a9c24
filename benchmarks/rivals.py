"""Two architectures that share a budget, on replayed curves: is `divide: value` better than equal shares?

    python -m benchmarks.rivals [--repetitions 40] [--trials 80] [--min-trials 16] [--slots 2] [--first-seed 0]
        [--half all|even|odd] [--processes 2] [--json PATH]

Only the CNN has trained curves, so both architectures are CNNs here. In the pair `norm` one of them has batch
normalisation and the other has none. In `behind 1` and similar pairs the second has 1 point of accuracy less than the
first in each epoch. In `equal` they do not differ. The numbers of trials are those of configs/cifake_night.yaml.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import curves
from benchmarks.cifake import Cifake
from benchmarks.regret import estimate
from benchmarks.simulation import Plan, Record, follow
from benchmarks.source import Curve
from search.config.load import parse
from search.config.schema import StudyConfig
from search.study import Study
from trainables.models.cnn.config import CnnConfig
from trainables.names import import_own

NAMES = ("benchmarks.rivals:First", "benchmarks.rivals:Second")
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "equal": ({}, {}),
    "behind 1": ({}, {"handicap": 0.01}),
    "behind 3": ({}, {"handicap": 0.03}),
    "norm": ({"batch_norm": True}, {"batch_norm": False}),
}
"""Name -> fixed parameters of each architecture."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class First(CnnConfig):
    """One architecture."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Second(CnnConfig):
    """The second architecture."""

    handicap: float = 0.0
    """Its accuracy is lower by this, in [0, 1]."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rivals:
    """A Source of two architectures."""

    pair: str
    half: str = "all"

    @property
    def name(self) -> str:
        """See Source."""
        return f"rivals {self.pair}"

    @property
    def architecture(self) -> str:
        """See Source: the first one."""
        return NAMES[0]

    @property
    def max_epochs(self) -> int:
        """See Source."""
        return curves.EPOCHS

    def build_study(self, **search: Any) -> StudyConfig:
        """See Source."""
        for name in NAMES:
            import_own(name, None, "search.architectures")
        known_space = curves.KINDS["cifake"].space
        fixed = zip(("First", "Second"), PAIRS[self.pair], strict=True)
        space = {"shared": known_space["shared"]} | {name: known_space["cnn"] | own for name, own in fixed}
        known = {"architectures": list(NAMES), "max_epochs": self.max_epochs}
        return parse({"name": "rivals", "search": known | search, "space": space})

    def train(self, params: Mapping[str, Any], seed: Sequence[int]) -> Curve:
        """See Source."""
        curve, handicap = Cifake(self.half).train(params, seed), params.get("handicap", 0.0)
        return Curve(curve.accuracies - handicap, curve.seconds, curve.regret + 100 * handicap)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a search ended."""

    regret: float
    """Regret in points of accuracy."""
    share: float
    """Share of the trials that the first architecture got."""
    epochs: int


def compete(pair: str, divide: str, options: argparse.Namespace, seed: int) -> Outcome:
    """Run one search to the end of its trials."""
    source = Rivals(pair, options.half)
    given = {"sampler": "portfolio", "divide": divide, "seed": seed, "num_trials": options.trials}
    study = Study(source.build_study(**given, min_trials=options.min_trials), Record())
    plan = Plan(arm=divide, slots=options.slots, seed=seed, epochs=0, source=source)
    *_, (_, regret) = follow(study, plan)
    names = [trial.architecture for trial in study.trials]
    return Outcome(regret=regret, share=names.count(NAMES[0]) / len(names), epochs=study.num_epochs)


def compare(pair: str, options: argparse.Namespace, pool: concurrent.futures.Executor) -> dict[str, Any]:
    """Return the row of a pair: `value` and `trials` with the same seeds, and their difference."""
    seeds = range(options.first_seed, options.first_seed + options.repetitions)
    found = {
        divide: list(pool.map(functools.partial(compete, pair, divide, options), seeds))
        for divide in ("trials", "value")
    }
    row: dict[str, Any] = {"pair": pair, "repetitions": len(seeds)}
    for divide, outcomes in found.items():
        for name in ("regret", "share", "epochs"):
            row[f"{divide}_{name}"] = estimate([getattr(outcome, name) for outcome in outcomes])
    pairs = zip(found["value"], found["trials"], strict=True)
    row["difference"] = estimate([value.regret - trials.regret for value, trials in pairs])
    return row


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--min-trials", type=int, default=16)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--half", default="all", choices=["all", "even", "odd"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        rows = [compare(pair, options, pool) for pair in PAIRS]
    print("| pair | n | regret, trials | regret, value | value minus trials | first's share, trials | value |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        difference = "{:+.2f} ({:+.2f} to {:+.2f})".format(*row["difference"])
        shares = " | ".join(f"{100 * row[f'{divide}_share'][0]:.0f} %" for divide in ("trials", "value"))
        regrets = " | ".join(f"{row[f'{divide}_regret'][0]:.2f}" for divide in ("trials", "value"))
        print(f"| {row['pair']} | {row['repetitions']} | {regrets} | {difference} | {shares} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

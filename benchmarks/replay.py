"""Replays trained learning curves under simulated time, to choose sampler and scheduler.

    python -m benchmarks.replay [--repetitions 50] [--slots 1 4 16 64] [--arms NAME ...] [--epochs 180]
        [--half all|even|odd|table] [--first-seed 0] [--processes 2] [--json PATH] [--plot PATH] [--short]

Each search is a real `search.study.Study` with its samplers and schedulers; only the training is a curve of
`benchmarks.surrogate`, only the clock is simulated, and the record is kept in memory, for nothing resumes it. Regret is
how far the configuration that the search would choose is below the best one, in points of accuracy to be
expected, not of the lucky seed. Over the repetitions stand the interquartile mean and its 95 % interval (bootstrap over
repetitions), after Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice
(arXiv:2108.13264). All arms share their seeds, so differences are taken search by search: to random + ASHA, and to the
default where that is among the arms. Equal commands give equal figures, on any number of processes.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import heapq
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from scipy import stats
from threadpoolctl import threadpool_limits

from benchmarks.arms import ARMS, BASELINE, DEFAULT, MORE, QMC_STARTS, SLOW
from benchmarks.curves import ARCHITECTURE, build_study
from benchmarks.surrogate import Surrogate, Table, list_distributions, load_curves
from search.config.schema import Recipe, StudyConfig
from search.record.facts import Stop
from search.record.journal import Journal
from search.record.metric import ACCURACY
from search.record.trial import State, Trial
from search.samplers.sampler import Sampler
from search.study import Study

Array = NDArray[np.float64]
SHARES = (0.25, 0.5, 1.0)
"""Of the budget: where regret is read off."""
NUM_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One search to simulate; equal plans give equal results."""

    arm: str
    slots: int
    """Trials at a time."""
    seed: int
    epochs: int
    """Budget over all trials."""
    half: str
    """Which configurations the curves were learnt from: all, even or odd ones; `table` draws from the trained ones
    themselves, which tells arms apart that do not learn."""


@functools.cache
def fit(half: str) -> Surrogate | Table:
    """Return the surrogate of one half of the configurations, or of all; or the table itself."""
    curves = load_curves()
    if half == "table":
        return Table(curves)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    part = curves if half == "all" else curves.take(("even", "odd").index(half), 2)
    with threadpool_limits(1):  # the same sums in the same order on any machine of one kind
        return Surrogate(part, deviations=curves)


@functools.cache
def find_best(half: str) -> float:
    """Return the best accuracy that a surrogate expects anywhere: random points, then changes of the best one."""
    generator = np.random.default_rng(0)
    sampler = Sampler("random", list_distributions(), seed=1, startup=1)
    points = [sampler.propose(number) for number in range(4000)]
    found = max(points, key=lambda params: _expect(half, params))
    for _ in range(3000):
        other = points[generator.integers(len(points))]
        kept = generator.random(len(found)) < 0.85
        changed = {name: found[name] if keep else other[name] for name, keep in zip(found, kept, strict=True)}
        found = max(found, changed, key=lambda params: _expect(half, params))
    return _expect(half, found)


def simulate(plan: Plan) -> Array:
    """Run one search to the end of its budget.

    Returns:
        (epochs, 2): after each epoch the simulated seconds since the start, and the regret of the choice then.
    """
    config = _build_config(plan.arm)
    search = dataclasses.replace(config.search, seed=plan.seed, num_trials=10**6, max_total_epochs=plan.epochs)
    first = list_first(plan.seed, QMC_STARTS.get(plan.arm, 0))
    return np.array(list(_simulate(Study(dataclasses.replace(config, search=search, recipes=first), Record()), plan)))


def list_first(seed: int, count: int) -> tuple[Recipe, ...]:
    """Return the first points that the qmc sampler proposes."""
    sampler = Sampler("qmc", list_distributions(), seed=seed, startup=1)
    return tuple(Recipe(architecture=ARCHITECTURE, params=sampler.propose(number)) for number in range(count))


class Record(Journal):
    """What a search needs of its journal, without the file; equal searches on either are equal (tested)."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self._num_trials = 0

    def load(self) -> list[Trial]:
        """There is nothing before the search."""
        return []

    def load_between(self, start: int, stop: int | None) -> list[Trial]:  # noqa: ARG002 Journal's names
        """No other program writes."""
        return []

    def list_epochs(self) -> list[tuple[int, int]]:
        """There is nothing before the search."""
        return []

    def list_stops(self) -> tuple[Stop, ...]:
        """Nobody stops it by hand."""
        return ()

    def add_trial(
        self,
        architecture: str,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],  # noqa: ARG002 Journal's names
        noted: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Trial:
        """See Journal."""
        self._num_trials += 1
        return Trial(number=self._num_trials - 1, architecture=architecture, params=dict(params))

    def add_epoch(
        self,
        trial: Trial,
        metrics: Mapping[str, float],
        *,
        device: str,  # noqa: ARG002 Journal's names
        elapsed_s: float,  # noqa: ARG002
    ) -> None:
        """See Journal."""
        trial.epochs.append(dict(metrics))

    def note(self, trial: Trial, noted: Mapping[str, Any]) -> None:
        """See Journal."""

    def end_trial(self, trial: Trial, state: State, reason: str | None, attributes: Mapping[str, Any]) -> None:
        """See Journal."""
        trial.state, trial.reason, trial.attributes = state, reason, dict(attributes)


@functools.cache
def _build_config(arm: str) -> StudyConfig:
    return build_study(**ARMS[arm])


def _simulate(study: Study, plan: Plan) -> Iterator[tuple[float, float]]:
    surrogate, best = fit(plan.half), find_best(plan.half)
    order = itertools.count()
    due: list[tuple[float, int, int]] = []
    curves: dict[int, tuple[Array, float, float]] = {}
    now, chosen = 0.0, (-1.0, 0.0)

    def launch() -> None:
        trial = study.ask()
        if trial is not None:
            expected, cost = surrogate.predict(trial.params)
            curve = surrogate.deviate(expected, np.random.default_rng([plan.seed, trial.number]))
            curves[trial.number] = curve, cost, float(expected.max())
            heapq.heappush(due, (now + cost, next(order), trial.number))

    for _ in range(plan.slots):
        launch()
    while due:
        now, _, number = heapq.heappop(due)
        curve, cost, worth = curves[number]
        epoch = len(study.trials[number].epochs) + 1
        value = float(curve[epoch - 1])
        metrics = {"epoch": epoch, ACCURACY: value, "seconds": cost, "images_per_second": 1.0}
        stop = study.report(number, metrics, "simulated")
        if value > chosen[0]:  # as the evaluator chooses: by the best epoch, the first wins a tie
            chosen = value, worth
        yield now, 100 * (best - chosen[1])
        if study.halt_reason:
            return
        if stop:
            launch()
        else:
            heapq.heappush(due, (now + cost, next(order), number))


def _expect(half: str, params: dict[str, Any]) -> float:
    return float(fit(half).predict(params)[0].max())


def replay(plans: Sequence[Plan], processes: int) -> dict[Plan, Array]:
    """Run searches side by side."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        return dict(zip(plans, pool.map(simulate, plans, chunksize=5), strict=True))


def list_plans(
    arms: Sequence[str], slots: Sequence[int], repetitions: int, epochs: int, half: str, first_seed: int = 0
) -> list[Plan]:
    """Return all searches; the slow samplers are repeated a tenth as often."""
    return [
        Plan(arm=arm, slots=width, seed=seed, epochs=epochs, half=half)
        for width, arm in itertools.product(slots, arms)
        for seed in range(
            first_seed, first_seed + (max(1, repetitions // 10) if ARMS[arm]["sampler"] in SLOW else repetitions)
        )
    ]


def summarize(results: Mapping[Plan, Array]) -> list[dict[str, Any]]:
    """Return a row for each arm and number of slots: interquartile means, and 95 % intervals as (low, high)."""
    groups: dict[tuple[int, str], list[Plan]] = {}
    for plan in results:
        groups.setdefault((plan.slots, plan.arm), []).append(plan)
    rows = []
    for (slots, arm), plans in groups.items():
        base = [results[dataclasses.replace(plan, arm=BASELINE)] for plan in plans]
        time_limit = float(np.median([found[-1, 0] for found in base])) / 2
        row: dict[str, Any] = {"slots": slots, "arm": arm, "repetitions": len(plans)}
        for share in SHARES:
            row[f"regret_{share:g}"] = estimate([_read(results[plan], share) for plan in plans])
        row["regret_at_time"] = estimate([_read_time(results[plan], time_limit) for plan in plans])
        row["difference"] = _compare(results, plans, BASELINE)
        if dataclasses.replace(plans[0], arm=DEFAULT) in results:
            row["difference_to_default"] = _compare(results, plans, DEFAULT)
        rows.append(row)
    return rows


def _compare(results: Mapping[Plan, Array], plans: Sequence[Plan], arm: str) -> tuple[float, float, float]:
    """Return what searches have of regret in the end minus what another arm has with the same seeds."""
    ends = [(_read(results[plan], 1.0), _read(results[dataclasses.replace(plan, arm=arm)], 1.0)) for plan in plans]
    return estimate([own - other for own, other in ends])


def estimate(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the interquartile mean and its 95 % interval by bootstrap over the values, seeded."""
    sample = np.array(values)
    drawn = sample[np.random.default_rng(0).integers(len(sample), size=(NUM_RESAMPLES, len(sample)))]
    low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return float(stats.trim_mean(sample, 0.25)), float(low), float(high)


def draw(results: Mapping[Plan, Array], path: Path) -> None:
    """Draw regret against the epochs spent, a panel for each number of slots."""
    slots = sorted({plan.slots for plan in results})
    figure = Figure(figsize=(3.4 * len(slots) + 1.8, 3.6), layout="constrained")
    panels = figure.subplots(1, len(slots), sharey=True, squeeze=False)[0]
    for axes, width in zip(panels, slots, strict=True):
        for place, arm in enumerate(dict.fromkeys(plan.arm for plan in results)):
            found = [curve[:, 1] for plan, curve in results.items() if (plan.arm, plan.slots) == (arm, width)]
            means = stats.trim_mean(np.array(found), 0.25, axis=0)
            axes.plot(
                np.arange(1, len(means) + 1), means, label=arm, color=f"C{place % 10}", ls="-" if place < 10 else "--"
            )
        axes.set(title=f"{width} slots", xlabel="epochs spent", xscale="log")
    panels[0].set(ylabel="regret, points (interquartile mean)")
    panels[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=80)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16, 64])
    usual = [name for name in ARMS if name not in MORE]
    parser.add_argument("--arms", nargs="+", default=usual, choices=list(ARMS))
    parser.add_argument("--epochs", type=int, default=180)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--half", default="all", choices=["all", "even", "odd", "table"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--short", action="store_true", help="two arms, 8 repetitions, 4 slots")
    options = parser.parse_args()
    arms = [BASELINE, DEFAULT] if options.short else list(dict.fromkeys([BASELINE, *options.arms]))
    repetitions = 8 if options.short else options.repetitions
    slots = [4] if options.short else options.slots
    started = time.perf_counter()
    plans = list_plans(arms, slots, repetitions, options.epochs, options.half, options.first_seed)
    results = replay(plans, options.processes)
    rows = summarize(results)
    _print(rows)
    print(f"{len(plans)} searches of {options.epochs} epochs, {time.perf_counter() - started:.0f} s")
    if options.plot:
        draw(results, options.plot)
    if options.json:
        options.json.write_text(json.dumps({"half": options.half, "epochs": options.epochs, "rows": rows}, indent=1))


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    shares = [f"{100 * share:.0f} % of epochs" for share in SHARES]
    columns = {"difference": f"minus {BASELINE}", "difference_to_default": f"minus {DEFAULT}"}
    differences = {name: title for name, title in columns.items() if name in rows[0]}
    print("| slots | arm | n |", " | ".join([*shares, "half the time", *differences.values()]), "|")
    print("|---:|---|---:|" + "---:|" * (len(SHARES) + 1 + len(differences)))
    for row in rows:
        names = [*(f"regret_{share:g}" for share in SHARES), "regret_at_time"]
        cells = [f"{row[name][0]:.2f}" for name in names]
        cells += ["{:+.2f} ({:+.2f} to {:+.2f})".format(*row[name]) for name in differences]
        print(f"| {row['slots']} | {row['arm']} | {row['repetitions']} |", " | ".join(cells), "|")


def _read(curve: Array, share: float) -> float:
    return float(curve[max(0, round(share * len(curve)) - 1), 1])


def _read_time(curve: Array, seconds: float) -> float:
    """Return the regret at a moment; before the first epoch's end, that after it."""
    return float(curve[max(0, int(np.searchsorted(curve[:, 0], seconds, side="right")) - 1), 1])


if __name__ == "__main__":
    main()

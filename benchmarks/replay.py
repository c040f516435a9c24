"""Replays trained learning curves under simulated time, to choose sampler and scheduler.

    python -m benchmarks.replay [--repetitions 20] [--slots 1 4 16 64] [--arms NAME ...] [--epochs 360]
        [--source cifake [--half all|even|odd|table]] [--source lcbench --lcbench FOLDER [--tasks confirm]]
        [--first-seed 0] [--processes 2] [--json PATH] [--plot PATH] [--short]

Each search is a real `search.study.Study` with its samplers and schedulers, or a peer's (`benchmarks.peers.arms`); only
the training is a curve of a source (`benchmarks.cifake`, `benchmarks.lcbench`), only the clock is simulated, and the
record is kept in memory, for nothing resumes it. Regret is how far the configuration that the search would choose is
below the best one, in points of accuracy to be expected, not of the lucky seed. Over the repetitions stand the
interquartile mean and its 95 % interval (bootstrap over repetitions), after Agarwal et al. 2021, Deep Reinforcement
Learning at the Edge of the Statistical Precipice (arXiv:2108.13264). All arms share their seeds, so differences are
taken search by search: to random + ASHA, and to the default and the one before where those are among the arms. Equal
commands give equal figures, on any number of processes.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import heapq
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from scipy import stats

from benchmarks.arms import ARMS, BASELINE, BEFORE, DEFAULT, QMC_STARTS, SLOW, USUAL
from benchmarks.cifake import HALVES, Cifake
from benchmarks.lcbench import PARTS, list_tasks
from benchmarks.panels import draw
from benchmarks.peers.arms import PEERS, PeerStudy, open_peer, require_installed
from benchmarks.source import Array, Curve, Source, draw_points, list_distributions
from search.config.schema import Recipe, StudyConfig
from search.record.facts import Stop
from search.record.journal import Journal
from search.record.metric import ACCURACY
from search.record.trial import State, Trial
from search.study import Study
from trainables.errors import InputError

SHARES = (0.25, 0.5, 1.0)
"""Of the budget: where regret is read off."""
NUM_RESAMPLES = 1000
TRAININGS = {1: 40, 4: 40, 16: 80, 64: 160}
"""Budget of a search by its slots, where none is named, in whole trainings."""
NUM_POINTS = 40
"""Of a line in the plot."""
COMPARED = {"difference": BASELINE, "difference_to_default": DEFAULT, "difference_to_before": BEFORE}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One search to simulate; equal plans give equal results."""

    arm: str
    slots: int
    """Trials at a time."""
    seed: int
    epochs: int
    """Budget over all trials."""
    source: Source


def simulate(plan: Plan) -> Array:
    """Run one search to the end of its budget.

    Returns:
        (epochs, 2): after each epoch the simulated seconds since the start, and the regret of the choice then.
    """
    if plan.arm in PEERS:
        peer = open_peer(plan.arm, list_distributions(plan.source), seed=plan.seed, max_epochs=plan.source.max_epochs)
        return np.array(list(follow(PeerStudy(peer, plan.epochs), plan)))
    config, source = _build_config(plan.source, plan.arm), plan.source
    search = dataclasses.replace(config.search, seed=plan.seed, num_trials=10**6, max_total_epochs=plan.epochs)
    points = draw_points(source, QMC_STARTS.get(plan.arm, 0), sampler="qmc", seed=plan.seed)
    first = tuple(Recipe(architecture=source.architecture, params=point) for point in points)
    return np.array(list(follow(Study(dataclasses.replace(config, search=search, recipes=first), Record()), plan)))


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
def _build_config(source: Source, arm: str) -> StudyConfig:
    return source.build_study(**ARMS[arm])


def follow(study: Study | PeerStudy, plan: Plan) -> Iterator[tuple[float, float]]:
    """Run a study to its end; yield after each epoch the simulated seconds since the start, and the regret."""
    order = itertools.count()
    due: list[tuple[float, int, int]] = []
    curves: dict[int, Curve] = {}
    now, chosen = 0.0, (-1.0, 0.0)

    def launch() -> None:
        trial = study.ask()
        if trial is not None:
            curves[trial.number] = curve = plan.source.train(trial.params, [plan.seed, trial.number])
            heapq.heappush(due, (now + curve.seconds, next(order), trial.number))

    for _ in range(plan.slots):
        launch()
    while due:
        now, _, number = heapq.heappop(due)
        curve = curves[number]
        epoch = len(study.trials[number].epochs) + 1
        value = float(curve.accuracies[epoch - 1])
        metrics = {"epoch": epoch, ACCURACY: value, "seconds": curve.seconds, "images_per_second": 1.0}
        stop = study.report(number, metrics, "simulated")
        if value > chosen[0]:  # as the evaluator chooses: by the best epoch, the first wins a tie
            chosen = value, curve.regret
        yield now, chosen[1]
        if study.halt_reason:
            return
        if stop:
            launch()
        else:
            heapq.heappush(due, (now + curve.seconds, next(order), number))


def replay(plans: Sequence[Plan], processes: int) -> dict[Plan, Array]:
    """Run searches side by side."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        return dict(zip(plans, pool.map(simulate, plans, chunksize=5), strict=True))


def list_plans(
    arms: Sequence[str],
    slots: Sequence[int],
    repetitions: int,
    epochs: int,
    sources: Sequence[Source],
    first_seed: int = 0,
) -> list[Plan]:
    """Return all searches; each source has its own seeds, and the slow arms are repeated a tenth as often."""
    return [
        Plan(arm=arm, slots=width, seed=first_seed + place * repetitions + number, epochs=epochs, source=source)
        for width, arm, (place, source) in itertools.product(slots, arms, enumerate(sources))
        for number in range(max(1, repetitions // 10) if ARMS.get(arm, {}).get("sampler", arm) in SLOW else repetitions)
    ]


def summarize(results: Mapping[Plan, Array]) -> list[dict[str, Any]]:
    """Return a row for each arm and number of slots: interquartile means, and 95 % intervals as (low, high).

    `early` differences are those at the first of SHARES. Those `by_source` are a mean for each source.
    """
    groups: dict[tuple[int, str], list[Plan]] = {}
    for plan in results:
        groups.setdefault((plan.slots, plan.arm), []).append(plan)
    rows = []
    for (slots, arm), plans in groups.items():
        limits = _list_limits(results, plans)
        row: dict[str, Any] = {"slots": slots, "arm": arm, "repetitions": len(plans)}
        for share in SHARES:
            row[f"regret_{share:g}"] = estimate([_read(results[plan], share) for plan in plans])
        row["regret_at_time"] = estimate([_read_time(results[plan], limits[plan.source]) for plan in plans])
        for name, other in COMPARED.items():
            if dataclasses.replace(plans[0], arm=other) in results:
                row[name] = estimate(_compare(results, plans, other, 1.0))
                row[f"{name}_early"] = estimate(_compare(results, plans, other, SHARES[0]))
                row[f"{name}_by_source"] = {
                    source.name: float(
                        np.mean(_compare(results, [plan for plan in plans if plan.source == source], other, 1.0))
                    )
                    for source in limits
                }
        rows.append(row)
    return rows


def _list_limits(results: Mapping[Plan, Array], plans: Sequence[Plan]) -> dict[Source, float]:
    """Return half of the seconds that the first arm takes, by source."""
    ends: dict[Source, list[float]] = {}
    for plan in plans:
        ends.setdefault(plan.source, []).append(results[dataclasses.replace(plan, arm=BASELINE)][-1, 0])
    return {source: float(np.median(found)) / 2 for source, found in ends.items()}


def _compare(results: Mapping[Plan, Array], plans: Sequence[Plan], arm: str, share: float) -> list[float]:
    """Return what searches have of regret, minus what another arm has with the same seeds."""
    others = [results[dataclasses.replace(plan, arm=arm)] for plan in plans]
    return [_read(results[plan], share) - _read(other, share) for plan, other in zip(plans, others, strict=True)]


def estimate(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the interquartile mean and its 95 % interval by bootstrap over the values, seeded."""
    sample = np.array(values)
    drawn = sample[np.random.default_rng(0).integers(len(sample), size=(NUM_RESAMPLES, len(sample)))]
    low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return float(stats.trim_mean(sample, 0.25)), float(low), float(high)


def trace(results: Mapping[Plan, Array]) -> dict[tuple[int, str], Array]:
    """Return by slots and arm: (points, 4), epochs spent, interquartile mean of the regret, and its interval."""
    found: dict[tuple[int, str], list[Array]] = {}
    for plan, curve in results.items():
        found.setdefault((plan.slots, plan.arm), []).append(curve[:, 1])
    traces = {}
    for key, curves in found.items():
        last = min(map(len, curves))
        epochs = np.unique(np.geomspace(max(1, last / 40), last, NUM_POINTS).round().astype(int))
        traces[key] = np.array([[epoch, *estimate([curve[epoch - 1] for curve in curves])] for epoch in epochs])
    return traces


def main() -> None:
    """Print one table; with several sources, a second one by source."""
    options = _parse()
    arms = [BASELINE, DEFAULT] if options.short else list(dict.fromkeys([BASELINE, *options.arms]))
    repetitions = 8 if options.short else options.repetitions
    slots = [4] if options.short else options.slots
    sources: list[Source] = [Cifake(options.half)]
    try:
        require_installed(options.arms)
        if options.source == "lcbench":
            sources = [*list_tasks(options.lcbench, options.tasks)]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    whole = sources[0].max_epochs
    epochs = {width: options.epochs or whole * (20 if options.short else TRAININGS.get(width, 40)) for width in slots}
    started = time.perf_counter()
    plans = [
        plan
        for width in slots
        for plan in list_plans(arms, [width], repetitions, epochs[width], sources, options.first_seed)
    ]
    results = replay(plans, options.processes)
    rows = summarize(results)
    _print(rows)
    told = ", ".join(f"{count} epochs at {width}" for width, count in epochs.items())
    print(f"{len(plans)} searches of {told} slots, {time.perf_counter() - started:.0f} s")
    if options.plot:
        draw(trace(results), options.plot)
    if options.json:
        figures = {"sources": [source.name for source in sources], "epochs": epochs, "rows": rows}
        options.json.write_text(json.dumps(figures | {"searches": list_searches(results)}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20, help="searches of each arm on each source")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--arms", nargs="+", default=USUAL, choices=[*ARMS, *PEERS])
    told = ", ".join(f"{count} at {width}" for width, count in TRAININGS.items())
    parser.add_argument("--epochs", type=int, help=f"budget of a search; by its slots whole trainings: {told}")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--source", default="cifake", choices=["cifake", "lcbench"])
    parser.add_argument("--half", default="all", choices=HALVES, help="of the CIFAKE configurations")
    parser.add_argument("--lcbench", type=Path, help="folder with LCBench's model.onnx and encoding.json")
    parser.add_argument("--tasks", nargs="+", default=["confirm"], help=f"of LCBench: numbers, or {', '.join(PARTS)}")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--short", action="store_true", help="two arms, 8 repetitions, 4 slots")
    return parser.parse_args()


def list_searches(results: Mapping[Plan, Array]) -> list[dict[str, Any]]:
    """Return the regrets of each search, so that other comparisons can be made of them."""
    return [
        {"source": plan.source.name, "arm": plan.arm, "slots": plan.slots, "seed": plan.seed}
        | {f"regret_{share:g}": _read(curve, share) for share in SHARES}
        for plan, curve in results.items()
    ]


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    shares = [f"{100 * share:.0f} % of epochs" for share in SHARES]
    compared = {name: other for name, other in COMPARED.items() if name in rows[0]}
    columns = {
        f"{name}{when}": f"minus {other}{text}"
        for name, other in compared.items()
        for when, text in (("_early", f", {shares[0]}"), ("", ""))
    }
    print("| slots | arm | n |", " | ".join([*shares, "half the time", *columns.values()]), "|")
    print("|---:|---|---:|" + "---:|" * (len(SHARES) + 1 + len(columns)))
    for row in rows:
        names = [*(f"regret_{share:g}" for share in SHARES), "regret_at_time"]
        cells = [f"{row[name][0]:.2f}" for name in names]
        cells += ["{:+.2f} ({:+.2f} to {:+.2f})".format(*row[name]) for name in columns]
        print(f"| {row['slots']} | {row['arm']} | {row['repetitions']} |", " | ".join(cells), "|")
    for name, other in compared.items():
        sources = list(rows[0][f"{name}_by_source"])
        if len(sources) == 1:
            return
        print(f"\nminus {other}, by source; the interval is over sources\n")
        print("| slots | arm | all |", " | ".join(sources), "|")
        print("|---:|---|---:|" + "---:|" * len(sources))
        for row in rows:
            gaps = row[f"{name}_by_source"].values()
            cells = ["{:+.2f} ({:+.2f} to {:+.2f})".format(*estimate(list(gaps))), *(f"{gap:+.2f}" for gap in gaps)]
            print(f"| {row['slots']} | {row['arm']} |", " | ".join(cells), "|")


def _read(curve: Array, share: float) -> float:
    return float(curve[max(0, round(share * len(curve)) - 1), 1])


def _read_time(curve: Array, seconds: float) -> float:
    """Return the regret at a moment; before the first epoch's end, that after it."""
    return float(curve[max(0, int(np.searchsorted(curve[:, 0], seconds, side="right")) - 1), 1])


if __name__ == "__main__":
    main()

"""Tables of regret: how far the configuration that a search would choose is below the best one.

It is in points of accuracy to be expected, not of the lucky seed. Over the repetitions stand the interquartile mean and
its 95 % interval (bootstrap over repetitions), after Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of
the Statistical Precipice (arXiv:2108.13264). All arms share their seeds, so differences are taken search by search.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.arms import BASELINE, BEFORE, DEFAULT
from benchmarks.simulation import Plan
from benchmarks.source import Array, Source

SHARES = (0.25, 0.5, 1.0)
"""Of the budget: where regret is read off."""
NUM_RESAMPLES = 1000
NUM_POINTS = 40
"""Of a line in the plot."""
COMPARED = {"difference": BASELINE, "difference_to_default": DEFAULT, "difference_to_before": BEFORE}


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


def list_searches(results: Mapping[Plan, Array]) -> list[dict[str, Any]]:
    """Return the regrets of each search, so that other comparisons can be made of them."""
    return [
        {"source": plan.source.name, "arm": plan.arm, "slots": plan.slots, "seed": plan.seed}
        | {f"regret_{share:g}": _read(curve, share) for share in SHARES}
        for plan, curve in results.items()
    ]


def print_tables(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one table; with several sources, a second one by source."""
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

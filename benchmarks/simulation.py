"""Runs searches on learning curves under simulated time.

Each search is a real `search.study.Study` with its samplers and schedulers, or a peer's (`benchmarks.peers.arms`); only
the training is a curve of a source, only the clock is simulated, and the record is kept in memory, for nothing resumes
it.
"""

import concurrent.futures
import dataclasses
import functools
import heapq
import itertools
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from benchmarks.arms import ARMS, QMC_STARTS, SLOW
from benchmarks.peers.arms import PEERS, PeerStudy, open_peer
from benchmarks.source import Array, Curve, Source, draw_points, list_distributions
from search.config.schema import Recipe, StudyConfig
from search.record.facts import Stop
from search.record.journal import Journal
from search.record.metric import ACCURACY
from search.record.trial import State, Trial
from search.study import Study


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

    def load_between(self, start: int, stop: int | None) -> list[Trial]:
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
        distributions: Mapping[str, BaseDistribution],
        noted: Mapping[str, Any] | None = None,
    ) -> Trial:
        """See Journal."""
        self._num_trials += 1
        return Trial(number=self._num_trials - 1, architecture=architecture, params=dict(params))

    def add_epoch(
        self,
        trial: Trial,
        metrics: Mapping[str, float],
        *,
        device: str,
        elapsed_s: float,
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

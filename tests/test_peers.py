"""Other libraries in the replay: the same slots, budget and curves as ours, and their own decisions."""

from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

import benchmarks.peers.arms
from benchmarks.arms import BASELINE
from benchmarks.cifake import Cifake
from benchmarks.curves import EPOCHS
from benchmarks.peers.arms import PEERS, open_peer, require_installed
from benchmarks.replay import main
from benchmarks.simulation import Plan, list_plans, simulate
from benchmarks.source import list_distributions
from search.record.metric import ACCURACY
from trainables.errors import InputError

BUDGET = 36
SOURCE = Cifake()


def plan(arm, seed=7, slots=4, epochs=BUDGET):
    return Plan(arm=arm, slots=slots, seed=seed, epochs=epochs, source=SOURCE)


def require(arm):
    try:
        require_installed([arm])
    except InputError as error:
        pytest.skip(str(error))


def open_search(arm, seed=7):
    return open_peer(arm, list_distributions(SOURCE), seed=seed, max_epochs=EPOCHS)


class Watched:
    """A search that counts what it is asked and told."""

    def __init__(self, search):
        self.search, self.reported, self.running, self.most = search, [], set(), 0

    def ask(self):
        asked = self.search.ask()
        self.running.add(asked[0])
        self.most = max(self.most, len(self.running))
        return asked

    def report(self, number, metrics):
        self.reported.append((number, metrics["epoch"]))
        stop = self.search.report(number, metrics)
        self.running -= {number} if stop else set()
        return stop


class Pausing:
    """A search of two trainings that pauses after each epoch and takes up the other one."""

    def __init__(self):
        self.last = 1

    def ask(self):
        self.last = 1 - self.last
        return self.last, open_search("optuna + median").ask()[1]

    def report(self, *_):
        return True


def watch(monkeypatch, search, **changes):
    watched = Watched(search)
    monkeypatch.setattr("benchmarks.simulation.open_peer", lambda *_, **__: watched)
    found = simulate(plan("optuna + median", **changes))
    return watched, found


@pytest.mark.parametrize("arm", PEERS)
def test_a_peer_ends_with_our_budget_and_repeats_exactly(arm):
    require(arm)
    first, second = (simulate(plan(arm)) for _ in range(2))
    assert first.shape == simulate(plan(BASELINE)).shape == (BUDGET, 2)
    assert np.array_equal(first, second)
    assert (np.diff(first[:, 0]) >= 0).all()


@pytest.mark.parametrize("arm", PEERS)
def test_a_peer_trains_each_epoch_once_in_no_more_than_its_slots(arm, monkeypatch):
    require(arm)
    watched, _ = watch(monkeypatch, open_search(arm))
    assert len(watched.reported) == len(set(watched.reported)) == BUDGET
    assert watched.most == 4
    reached = Counter(number for number, _ in watched.reported)
    assert max(reached.values()) <= EPOCHS
    assert all(
        [epoch for other, epoch in watched.reported if other == number] == list(range(1, reached[number] + 1))
        for number in reached
    )


@pytest.mark.parametrize("arm", PEERS)
def test_a_peer_proposes_points_of_the_space_that_differ_with_the_seed(arm):
    require(arm)
    points = [open_search(arm, seed).ask()[1] for seed in (1, 2)]
    for name, distribution in list_distributions(SOURCE).items():
        for point in points:
            if isinstance(distribution, CategoricalDistribution):
                assert point[name] in distribution.choices
            else:
                assert distribution.low <= point[name] <= distribution.high
    assert points[0] != points[1]


def test_a_paused_training_continues_where_it_stopped(monkeypatch):
    watched, _ = watch(monkeypatch, Pausing(), slots=1, epochs=6)
    assert watched.reported == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]


def test_optuna_on_one_slot_is_what_its_own_loop_gives(monkeypatch):
    seed = 7

    def suggest(trial, name, distribution):
        if isinstance(distribution, CategoricalDistribution):
            return trial.suggest_categorical(name, distribution.choices)
        kind = trial.suggest_float if isinstance(distribution, FloatDistribution) else trial.suggest_int
        return kind(name, distribution.low, distribution.high, log=distribution.log)

    def objective(trial):
        params = {name: suggest(trial, name, distribution) for name, distribution in list_distributions(SOURCE).items()}
        curve = SOURCE.train(params, [seed, trial.number]).accuracies
        for step, value in enumerate(curve):
            trial.report(float(value), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(curve[-1])

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(),
    )
    study.optimize(objective, n_trials=25)
    known = [(trial.number, step + 1) for trial in study.trials for step in trial.intermediate_values]
    watched, _ = watch(monkeypatch, open_search("optuna + successive halving"), slots=1, epochs=len(known))
    assert watched.reported == known
    values = [trial.intermediate_values[max(trial.intermediate_values)] for trial in study.trials]
    assert len(set(values)) > 20


def test_syne_tune_stops_by_the_rungs_of_asha():
    require("syne asha")
    search = open_search("syne asha")
    for number, value in enumerate([0.6, 0.7, 0.5, 0.8]):
        assert search.ask()[0] == number
        stops = search.report(number, {"epoch": 1, ACCURACY: value})
        assert stops == (value == 0.5)


def test_slow_peers_are_repeated_a_tenth_as_often():
    plans = list_plans(["optuna + median", "syne ashacqr"], [4], 20, 90, [SOURCE])
    assert Counter(plan.arm for plan in plans) == {"optuna + median": 20, "syne ashacqr": 2}


@pytest.mark.parametrize(("arm", "package"), [("syne bohb", "syne-tune"), ("neps priorband", "neural-pipeline-search")])
def test_a_peer_that_is_not_installed_ends_the_command_with_the_cure(arm, package, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.peers.arms, "find_spec", lambda _: None)
    monkeypatch.setattr("sys.argv", ["replay", "--arms", "optuna + median", arm])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert arm in said
    assert f"pip install '{package}" in said

import warnings
from collections import Counter

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from threadpoolctl import threadpool_info

from search.record.trial import State, Trial
from search.samplers import gp, tpe
from search.samplers.own import OwnSampler
from search.samplers.sampler import PARTS, SAMPLERS, Sampler, _draw_part, derive_proposal_seed

NAMES = [*sorted(SAMPLERS), "optuna.samplers:CmaEsSampler", "optuna.samplers:NSGAIISampler"]
DISTRIBUTIONS = {
    "filters": IntDistribution(8, 64, log=True),
    "head": CategoricalDistribution(("flatten", "gap")),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
}


def build(name, distributions=DISTRIBUTIONS, seed=3):
    kind = Sampler if name in SAMPLERS else OwnSampler
    return kind(name, distributions, seed=seed, startup=5)


def make_trial(number, params, noted=None):
    return Trial(number=number, architecture="cnn", params=params, noted=noted or {})


def end(sampler, trial):
    """End every seventh trial as failed, every third as pruned, the rest as complete."""
    trial.epochs = [{"accuracy": trial.params["learning_rate"] * factor} for factor in (1, 2)]
    trial.state = State.FAIL if trial.number % 7 == 6 else State.PRUNED if trial.number % 3 == 0 else State.COMPLETE
    sampler.end(trial)


def run(sampler, trials, until, lag=2):
    """Propose trials up to `until`; each ends `lag` proposals later, so some are running all the time."""
    for number in range(len(trials), until):
        trials.append(make_trial(number, sampler.propose(number), sampler.noted.pop(number)))
        sampler.start(trials[-1])
        if number >= lag:
            end(sampler, trials[number - lag])
    return trials


@pytest.mark.parametrize("name", NAMES)
def test_proposals_are_in_the_space(name):
    for trial in run(build(name), [], 12):
        for parameter, distribution in DISTRIBUTIONS.items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[parameter]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [1, 6, 13])
def test_a_sampler_rebuilt_from_the_journal_continues_as_the_old_one(name, cut):
    straight = run(build(name), [], 20)
    rebuilt, trials = build(name), [make_trial(trial.number, trial.params, trial.noted) for trial in straight[:cut]]
    for trial in trials:
        rebuilt.start(trial)
    for trial in trials[: max(0, cut - 2)]:
        end(rebuilt, trial)
    assert [trial.params for trial in run(rebuilt, trials, 20)] == [trial.params for trial in straight]


@pytest.mark.parametrize("name", NAMES)
def test_asking_twice_for_one_trial_gives_the_same_proposal(name):
    sampler = build(name)
    run(sampler, [], 8)
    assert sampler.propose(8) == sampler.propose(8)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_changes_the_proposals(name):
    one, other = ([trial.params for trial in run(build(name, seed=seed), [], 4)] for seed in (0, 1))
    for parameter, distribution in DISTRIBUTIONS.items():
        if isinstance(distribution, FloatDistribution):
            assert [params[parameter] for params in one] != [params[parameter] for params in other]


@pytest.mark.parametrize("name", NAMES)
def test_proposals_differ_from_one_another_even_when_all_trials_fail(name):
    sampler, seen = build(name), []
    for number in range(6):
        trial = make_trial(number, sampler.propose(number))
        sampler.start(trial)
        trial.state = State.FAIL
        sampler.end(trial)
        seen.append(tuple(trial.params.values()))
    assert len(set(seen)) == 6


@pytest.mark.parametrize("name", NAMES)
def test_a_space_without_searched_parameters_proposes_nothing(name):
    assert build(name, {}).propose(0) == {}


def test_tpe_proposes_what_optunas_own_does_for_each_parameter_by_itself(monkeypatch):
    shared = run(build("tpe"), [], 40)

    def build_plain(own, number):
        return TPESampler(seed=derive_proposal_seed(own.seed, number), n_startup_trials=own.startup, multivariate=False)

    monkeypatch.setitem(SAMPLERS, "tpe", build_plain)
    monkeypatch.setattr(Sampler, "_list_relative", lambda *_: {})
    assert [trial.params for trial in run(build("tpe"), [], 40)] == [trial.params for trial in shared]


def test_tpe_learns_from_pruned_trials():
    sampler = build("tpe")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(40):
            trial = make_trial(number, sampler.propose(number))
            sampler.start(trial)
            trial.state = State.PRUNED
            trial.epochs = [{"accuracy": -abs(trial.params["filters"] - 16)}]
            sampler.end(trial)
    late = [sampler.propose(number)["filters"] for number in range(40, 60)]
    early = [build("random").propose(number)["filters"] for number in range(20)]
    assert sum(abs(value - 16) for value in late) < sum(abs(value - 16) for value in early)


def test_the_portfolio_draws_its_parts_by_their_shares():
    drawn = Counter(_draw_part(5, number) for number in range(4000))
    assert drawn.keys() == PARTS.keys()
    for name, share in PARTS.items():
        assert drawn[name] / 4000 == pytest.approx(share, abs=0.03)


def test_a_proposal_of_the_portfolio_is_that_of_the_part_which_was_drawn():
    whole, trials = build("portfolio"), []
    run(whole, trials, 20)
    parts = {name: build(name) for name in PARTS}
    for sampler in parts.values():
        for trial in trials:
            sampler.start(trial)
        for trial in trials[:18]:
            sampler.end(trial)
    for number in range(20, 40):
        assert whole.propose(number) == parts[_draw_part(3, number)].propose(number)


def take_in(sampler, trials):
    """Take in trials of (filters, scores, state)."""
    for number, (filters, scores, state) in enumerate(trials):
        params = {"filters": filters, "head": "gap", "learning_rate": 1e-2}
        trial = make_trial(number, params)
        sampler.start(trial)
        trial.epochs = [{"accuracy": score} for score in scores]
        trial.state = state
        if state is not State.RUNNING:
            sampler.end(trial)


def measure_filters(sampler):
    return sum(sampler.propose(number)["filters"] for number in range(1000, 1040)) / 40


@pytest.mark.parametrize("name", ["gp_rungs", "tpe_tame"])
@pytest.mark.parametrize("state", [State.PRUNED, State.RUNNING])
def test_a_trial_that_was_stopped_or_runs_counts_by_its_value_not_by_its_state(name, state):
    found = []
    for good in (False, True):
        sampler = Sampler(name, DISTRIBUTIONS, seed=3, startup=5, levels=[1, 3])
        complete = [(filters, [0.1, 0.2, 0.3], State.COMPLETE) for filters in (8, 9, 10, 11, 12) * 2]
        take_in(
            sampler, [*complete, *((filters, [0.2 if good else 0.05], state) for filters in (60, 61, 62, 63, 64) * 2)]
        )
        found.append(measure_filters(sampler))
    assert found[1] > found[0] + 4


def test_tame_tpe_looks_at_a_bounded_number_of_trials(monkeypatch):
    monkeypatch.setattr(tpe, "MOST_BAD", 6)
    sizes, plain = [], tpe.TameTPESampler._draw

    def draw(self, study, name, distribution, good, bad):
        sizes.append((len(good), len(bad)))
        return plain(self, study, name, distribution, good, bad)

    monkeypatch.setattr(tpe.TameTPESampler, "_draw", draw)
    sampler = build("tpe_tame")
    take_in(sampler, [(20, [number / 30], State.COMPLETE) for number in range(30)])
    sampler.propose(30)
    assert set(sizes) == {(3, 6)}


def test_the_gaussian_process_computes_on_one_thread(monkeypatch):
    seen, plain = [], gp.fit

    def fit(*given):
        seen.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return plain(*given)

    monkeypatch.setattr(gp, "fit", fit)
    sampler = build("gp_rungs")
    run(sampler, [], 8)
    sampler.propose(8)
    assert set(seen) == {1}

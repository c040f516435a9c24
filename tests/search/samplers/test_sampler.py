import warnings

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler

from search.record.trial import State, Trial
from search.samplers.sampler import SAMPLERS, Sampler, _derive_seed

NAMES = [*sorted(SAMPLERS), "optuna.samplers:CmaEsSampler", "optuna.samplers:NSGAIISampler"]
DISTRIBUTIONS = {
    "filters": IntDistribution(8, 64, log=True),
    "head": CategoricalDistribution(("flatten", "gap")),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
}


def build(name, distributions=DISTRIBUTIONS, seed=3):
    return Sampler(name, distributions, seed=seed, startup=5)


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
        return TPESampler(seed=_derive_seed(own.seed, number), n_startup_trials=own.startup, multivariate=False)

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

"""Samplers that a study names as `module:Name`: exact after any kill, or refused in a sentence."""

import math
import pickle
import statistics
import sys

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler

from search.config.load import load, parse
from search.record.journal import Journal
from search.samplers.own import check_sampler
from search.study import Study
from trainables.errors import InputError

SPACE = {
    "cnn": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "dropout": {"low": 0.0, "high": 0.9}},
    "shared": {},
}
STEPS = {"cnn": {"filters": {"low": 8, "high": 16, "step": 2}, "batch_norm": {"choice": [True, False]}}}
CMA = "optuna.samplers:CmaEsSampler"


def configure(sampler, space=SPACE, **search):
    fixed = {"architectures": ["cnn"], "max_epochs": 1, "grace_epochs": 1, "scheduler": "none", "num_startup_trials": 1}
    return parse({"name": "x", "space": space, "search": {**fixed, "sampler": sampler, **search}})


def open_study(folder, sampler, **settings):
    folder.mkdir(exist_ok=True)
    return Study(configure(sampler, **settings), Journal(folder / "study.journal", "x", note=print))


def measure(params):
    """A narrow ridge in two parameters, 0.8 at its top."""
    x, y = math.log10(params["learning_rate"]) + 2.3, 3 * (params["dropout"] - 0.3)
    return 0.8 - 10 * (x - y) ** 2 - (x + y) ** 2 / 4


def run(study, limit=None, lag=0, measure=measure):
    """Run a study with `lag` more trials at the same time; stop, as if killed, after `limit` epochs."""
    running, trained = [], 0
    while True:
        while len(running) <= lag and (trial := study.ask()) is not None:
            running.append(trial)
        if not running:
            return True
        if trained == limit:
            return False
        trial = running.pop(0)
        study.report(trial.number, {"epoch": 1, "accuracy": measure(trial.params)}, "cpu")
        trained += 1


def list_points(study):
    return [(trial.architecture, trial.params, trial.state) for trial in study.trials]


def test_cma_es_ends_where_plain_optunas_does(tmp_path):
    ends = []
    for seed in range(3):
        study = open_study(tmp_path / str(seed), CMA, seed=seed, num_trials=80)
        run(study)
        plain = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=1)
        )
        plain.optimize(lambda trial: measure(suggest(trial)), n_trials=80)
        values = [trial.list_values()[0] for trial in study.trials], [trial.value for trial in plain.trials]
        ends.append([(max(each), statistics.median(each[-20:])) for each in values])
    for place in (0, 1):
        ours, theirs = (statistics.fmean(end[side][place] for end in ends) for side in (0, 1))
        assert ours > 0.7
        assert ours > theirs - 0.05


def suggest(trial):
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.9),
    }


@pytest.mark.parametrize(("limit", "lag"), [(1, 0), (7, 0), (13, 2)])
@pytest.mark.parametrize("name", ["CmaEsSampler", "NSGAIISampler", "QMCSampler", "TPESampler"])
def test_a_study_with_any_sampler_of_optuna_that_is_killed_equals_one_that_is_not(tmp_path, name, limit, lag):
    settings = {"num_trials": 70 if name == "NSGAIISampler" else 30, "num_startup_trials": 4}
    straight = open_study(tmp_path / "straight", f"optuna.samplers:{name}", **settings)
    run(straight, lag=lag)
    while not run(killed := open_study(tmp_path / "killed", f"optuna.samplers:{name}", **settings), limit + lag, lag):
        pass
    assert list_points(killed) == list_points(straight)
    again = open_study(tmp_path / "straight", f"optuna.samplers:{name}", **{**settings, "num_trials": 90})
    longer = open_study(tmp_path / "killed", f"optuna.samplers:{name}", **{**settings, "num_trials": 90})
    assert again.ask().params == longer.ask().params


def test_brute_force_tries_every_point_once_although_it_is_killed(tmp_path):
    settings = {"num_trials": 10, "space": STEPS}
    name = "optuna.samplers:BruteForceSampler"

    def rate(params):
        return params["filters"] / 16

    while not run(study := open_study(tmp_path / "x", name, **settings), 3, measure=rate):
        pass
    assert len({(trial.params["filters"], trial.params["batch_norm"]) for trial in study.trials}) == 10


def test_what_a_sampler_wrote_is_in_the_journal_in_optunas_own_form(tmp_path):
    run(open_study(tmp_path, CMA, num_trials=10))
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    )
    trials = optuna.load_study(study_name="x", storage=storage).trials
    assert [trial.system_attrs.get("cma:generation") for trial in trials][2:8] == [0, 0, 0, 0, 0, 1]
    assert any(key.startswith("cma:optimizer") for trial in trials for key in trial.system_attrs)


def test_cma_es_learns_from_points_that_were_enqueued_meanwhile(tmp_path):
    found = []
    for limit in (None, 5):
        folder = tmp_path / str(limit)
        run(open_study(folder, CMA, num_trials=12))
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
        plain = optuna.load_study(study_name="x", storage=optuna.storages.JournalStorage(backend))
        plain.enqueue_trial({"cnn.learning_rate": 0.005})
        plain.enqueue_trial({"cnn.learning_rate": 0.004, "cnn.dropout": 0.2})
        while not run(study := open_study(folder, CMA, num_trials=40), limit):
            pass
        found.append(list_points(study))
        assert [trial.params["learning_rate"] for trial in study.trials[12:14]] == [0.005, 0.004]
        assert study.trials[12].noted["cma:generation"] > 0
    assert found[0] == found[1]


class Counting(BaseSampler):
    """Alternates between two ends of a range by a counter that it keeps as its subclasses say."""

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        ends = (param_distribution.low, param_distribution.high)
        return ends[self.count(study) % 2]


class InItself(Counting):
    def __init__(self):
        self.counted = []

    def count(self, study):
        self.counted.append(1)
        return len(self.counted)


class InItsModule(Counting):
    counted = 0

    def count(self, study):
        InItsModule.counted += 1
        return InItsModule.counted // 2


class InTheStudy(Counting):
    def before_trial(self, study, trial):
        count = study._storage.get_study_system_attrs(study._study_id).get("count", 0)
        study._storage.set_study_system_attr(study._study_id, "count", count + 1)

    def after_trial(self, study, trial, state, values):
        self.before_trial(study, trial)
        study._storage.set_trial_system_attr(trial._trial_id, "seen", (1, 2))

    def count(self, study):
        return study._storage.get_study_system_attrs(study._study_id)["count"] // 2


class AtEnd(RandomSampler):
    def after_trial(self, study, trial, state, values):
        self.best = values


class FromTheThirdOn(RandomSampler):
    def before_trial(self, study, trial):
        if trial.number > 2:
            self.late = True


class OfNoSeed(RandomSampler):
    def __init__(self):
        super().__init__()


class OutsideOfTheSpace(Counting):
    def count(self, study):
        raise KeyError("x")


class WithSeed(RandomSampler):
    def __init__(self, seed):
        super().__init__(seed)
        self.own = np.random.default_rng(seed)
        self.inner = GPSampler(seed=seed)

    def sample_independent(self, study, trial, param_name, param_distribution):
        self.own.normal()
        self.inner.sample_relative(study, trial, {})
        return super().sample_independent(study, trial, param_name, param_distribution)


class Beginning:
    """No sampler."""


class Grid(GridSampler):
    def __init__(self):
        super().__init__({"filters": [8, 10, 12], "batch_norm": [True, False]})


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("InItself", "keeps counted between proposals, which a resumed study would lack: store it with"),
        ("AtEnd", "keeps best between proposals"),
        ("InItsModule", "proposes something else when it is asked again"),
        ("OfNoSeed", "name `seed` in its constructor"),
        ("OutsideOfTheSpace", "fails"),
        ("Absent", "cannot be imported"),
        ("configure", "cannot be built"),
        ("Journal", "cannot be built"),
        ("Study", "cannot be built"),
        ("BaseSampler", "cannot be built"),
        ("InputError", "cannot be built"),
        ("Beginning", "expected a subclass of Optuna's BaseSampler"),
        (
            "GridSampler",
            "cannot be built .*missing 1 .*'search_space'.*: derive a class that needs at most seed, n_startup",
        ),
    ],
)
def test_a_sampler_that_cannot_be_exact_or_built_is_refused_before_the_first_trial(name, said):
    with pytest.raises(InputError, match=said) as caught:
        check_sampler(configure(f"own:{name}"))
    assert str(caught.value).startswith("search.sampler = 'own:")


def test_a_sampler_that_begins_to_keep_state_later_is_refused_then(tmp_path):
    check_sampler(configure("own:FromTheThirdOn"))
    study = open_study(tmp_path, "own:FromTheThirdOn", num_trials=5)
    with pytest.raises(InputError, match="keeps late between proposals"):
        run(study)
    assert len(study.trials) == 3


@pytest.mark.parametrize("lag", [0, 3])
def test_a_sampler_may_keep_what_it_needs_in_the_study(tmp_path, lag):
    check_sampler(configure("own:InTheStudy"))
    straight = open_study(tmp_path / "straight", "own:InTheStudy", num_trials=9)
    run(straight, lag=lag)
    assert len({trial.params["dropout"] for trial in straight.trials}) == 2
    assert [trial.noted["seen"] for trial in straight.trials] == [[1, 2]] * 9
    while not run(killed := open_study(tmp_path / "killed", "own:InTheStudy", num_trials=9), 2 + lag, lag):
        pass
    assert list_points(killed) == list_points(straight)
    assert [trial.noted for trial in killed.trials] == [trial.noted for trial in straight.trials]


def test_generators_and_samplers_of_optuna_inside_are_no_state():
    check_sampler(configure("own:WithSeed"))


def test_a_grid_in_a_class_of_ones_own_tries_every_point(tmp_path):
    check_sampler(configure("own:Grid", STEPS))
    study = open_study(tmp_path, "own:Grid", space=STEPS, num_trials=6)
    run(study, measure=lambda params: params["filters"])
    assert len({(trial.params["filters"], trial.params["batch_norm"]) for trial in study.trials}) == 6


def test_a_sampler_is_found_beside_the_file_of_the_study(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_the_study.py").write_text("from optuna.samplers import RandomSampler as Mine")
    (tmp_path / "x.yaml").write_text("name: x\nsearch: {sampler: 'beside_the_study:Mine', num_trials: 2}\n")
    check_sampler(load(tmp_path / "x.yaml"))


@pytest.mark.parametrize("key", ["sampler", "scheduler"])
def test_an_unknown_sampler_is_refused_with_the_known_ones(key):
    with pytest.raises(InputError, match=rf"search.{key} = 'x y': input should be .*, or module:Name of your own code"):
        parse({"name": "x", "search": {key: "x y"}})


def test_a_strangers_journal_cannot_make_cma_es_run_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (exec, ("import sys; sys.harmed = True",))

    study = open_study(tmp_path, CMA, num_trials=9)
    run(study)
    text = (tmp_path / "study.journal").read_text()
    content = next(trial.noted[key] for trial in study.trials for key in trial.noted if key.endswith("optimizer:0"))
    (tmp_path / "study.journal").write_text(text.replace(content, pickle.dumps(Harmful()).hex() + "0"))
    with pytest.raises(InputError, match=r"has a wrong cma:optimizer \(it names builtins.exec\): restore the journal"):
        open_study(tmp_path, CMA, num_trials=10)
    assert not hasattr(sys, "harmed")

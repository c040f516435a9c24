import math

import pytest

from search.config.load import parse
from search.record.journal import Journal
from search.record.trial import State
from search.report.ending import describe_ending
from search.samplers.sampler import SAMPLERS
from search.schedulers.scheduler import SCHEDULERS
from search.schedulers.trial_end import is_converged
from search.study import Study

SPACE = {
    "shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
    "cnn": {"filters": {"low": 8, "high": 64, "log": True}, "head": {"choice": ["flatten", "gap"]}},
}


class Recorder:
    """A listener that keeps what it was told."""

    def __init__(self):
        self.events = []

    def on_start(self, trial):
        self.events.append(("start", trial.number))

    def on_epoch(self, trial):
        self.events.append(("epoch", trial.number, len(trial.epochs)))

    def on_end(self, trial):
        self.events.append(("end", trial.number, trial.state))

    def close(self):
        self.events.append(("close",))


def open_study(folder, listeners=(), recipes=(), evaluation=(), **search):
    settings = {"num_trials": 24, "max_epochs": 9, "num_startup_trials": 4, "scheduler": "asha", "seed": 3, **search}
    parts = {"search": settings, "space": SPACE, "recipes": list(recipes), "evaluation": dict(evaluation)}
    config = parse({"name": "x", **parts})
    return Study(config, Journal(folder / "study.journal", "x", note=print), listeners)


def measure(trial, epoch):
    """A closed-form learning curve: best at a learning rate of 0.003, rising with the epochs."""
    accuracy = 0.9 - 0.1 * abs(math.log10(trial.params["learning_rate"]) + 2.5) * (1 + 1 / epoch)
    return {"epoch": epoch, "accuracy": accuracy, "seconds": 0.5, "images_per_second": 100.0}


def run(study, limit=None):
    """Run one trial after the other; stop, as if killed, after `limit` epochs. Return whether it came to its end."""
    trained = 0
    while (trial := study.ask()) is not None:
        stop = False
        while not stop:
            if trained == limit:
                return False
            stop = study.report(trial.number, measure(trial, len(trial.epochs) + 1), "cpu")
            trained += 1
    return True


def summarize(study):
    return [(t.number, t.architecture, t.params, t.epochs, t.state, t.reason) for t in study.trials]


def test_a_study_ends_with_the_configured_number_of_trials_none_running(tmp_path):
    study = open_study(tmp_path)
    assert run(study)
    assert study.is_over
    assert [trial.number for trial in study.trials] == list(range(24))
    assert {trial.state for trial in study.trials} == {State.COMPLETE, State.PRUNED}


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 13])
def test_a_study_that_is_killed_again_and_again_equals_one_that_is_not(tmp_path, limit):
    (tmp_path / "straight").mkdir()
    (tmp_path / "killed").mkdir()
    straight = open_study(tmp_path / "straight")
    run(straight)
    while not run(killed := open_study(tmp_path / "killed"), limit):
        pass
    assert summarize(killed) == summarize(straight)


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("sampler", [*sorted(SAMPLERS), "optuna.samplers:CmaEsSampler"])
def test_every_sampler_with_every_scheduler_survives_a_kill(tmp_path, sampler, scheduler):
    search = {"sampler": sampler, "scheduler": scheduler, "num_trials": 8, "max_epochs": 4}
    (tmp_path / "straight").mkdir()
    (tmp_path / "killed").mkdir()
    straight = open_study(tmp_path / "straight", **search)
    run(straight)
    assert not run(open_study(tmp_path / "killed", **search), 7)
    killed = open_study(tmp_path / "killed", **search)
    assert run(killed)
    assert summarize(killed) == summarize(straight)
    assert all(trial.state is not State.RUNNING for trial in killed.trials)


def test_extending_a_finished_study_continues_as_if_it_had_been_longer_from_the_start(tmp_path):
    (tmp_path / "short").mkdir()
    (tmp_path / "long").mkdir()
    run(open_study(tmp_path / "short", num_trials=10))
    extended, straight = open_study(tmp_path / "short"), open_study(tmp_path / "long")
    run(extended)
    run(straight)
    assert summarize(extended) == summarize(straight)


@pytest.mark.parametrize("limit", [None, 7])
def test_trials_of_an_architecture_end_after_its_own_number_of_epochs(tmp_path, limit):
    lengths = {"max_epochs": {"cnn": 9, "resnet50": 3}, "reduction_factor": 3}
    while not run(study := open_study(tmp_path, **lengths), limit):
        pass
    ends = {(t.architecture, t.state, len(t.epochs)) for t in study.trials}
    assert ends == {
        ("cnn", State.PRUNED, 3),
        ("cnn", State.COMPLETE, 9),
        ("resnet50", State.PRUNED, 1),
        ("resnet50", State.COMPLETE, 3),
    }


def test_an_epoch_that_is_reported_again_changes_nothing(tmp_path):
    study = open_study(tmp_path)
    trial = study.ask()
    study.report(trial.number, measure(trial, 1), "cpu")
    assert not study.report(trial.number, measure(trial, 1), "cpu")
    assert len(open_study(tmp_path).trials[0].epochs) == 1


def test_a_skipped_epoch_is_a_bug(tmp_path):
    study = open_study(tmp_path)
    trial = study.ask()
    with pytest.raises(AssertionError, match="skipped an epoch"):
        study.report(trial.number, measure(trial, 2), "cpu")


def test_a_failed_trial_keeps_its_reason_and_the_search_continues(tmp_path):
    study = open_study(tmp_path, num_trials=3)
    study.fail(study.ask().number, "loss is nan in epoch 1", "the traceback")
    run(study)
    failed = open_study(tmp_path, num_trials=3).trials[0]
    assert (failed.state, failed.reason) == (State.FAIL, "loss is nan in epoch 1")
    assert failed.attributes["traceback"] == "the traceback"
    assert study.is_over


def test_a_stop_that_was_decided_but_not_recorded_is_decided_again(tmp_path):
    study = open_study(tmp_path, num_trials=9, scheduler="asha")
    run(study)
    pruned = next(trial for trial in study.trials if trial.state is State.PRUNED)
    lines = (tmp_path / "study.journal").read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if f'"trial_id":{pruned.number},' in line and '"state"' in line)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "study.journal").write_text("".join(lines[:last]))
    resumed = open_study(tmp_path / "cut", num_trials=9).trials[pruned.number]
    assert (resumed.state, resumed.reason, resumed.epochs) == (State.PRUNED, pruned.reason, pruned.epochs)


def test_five_first_failures_for_one_reason_halt_the_study(tmp_path):
    study = open_study(tmp_path)
    for _ in range(5):
        study.fail(study.ask().number, "the disk is on fire")
    assert study.ask() is None
    assert study.halt_reason == "the first 5 trials all failed: the disk is on fire"


def test_a_study_that_halted_for_failures_can_go_on_after_the_repair(tmp_path):
    study = open_study(tmp_path)
    for _ in range(5):
        study.fail(study.ask().number, "the disk is on fire")
    assert run(open_study(tmp_path))


def test_failures_after_a_success_do_not_halt_the_study(tmp_path):
    study = open_study(tmp_path, max_epochs=1, grace_epochs=1)
    waiting = [study.ask() for _ in range(6)]
    study.report(waiting[-1].number, measure(waiting[-1], 1), "cpu")
    for trial in waiting[:5]:
        study.fail(trial.number, "the disk is on fire")
        study.fail(trial.number, "said twice")
    assert study.halt_reason is None
    assert study.trials[0].reason == "the disk is on fire"


def test_five_first_failures_for_different_reasons_do_not_halt_the_study(tmp_path):
    study = open_study(tmp_path)
    for number in range(5):
        study.fail(study.ask().number, f"reason {number}")
    assert study.ask() is not None


def test_a_budget_of_epochs_halts_the_study_and_prunes_what_is_under_way(tmp_path):
    study = open_study(tmp_path, max_total_epochs=4, scheduler="none")
    first, second = study.ask(), study.ask()
    for trial in (first, first, second, second):
        study.report(trial.number, measure(trial, len(trial.epochs) + 1), "cpu")
    assert study.ask() is None
    study.halt(study.halt_reason)
    assert [trial.state for trial in study.trials] == [State.PRUNED, State.PRUNED]
    assert study.trials[0].reason == "the budget of 4 epochs is used"


def test_epochs_are_counted_over_resumptions(tmp_path):
    run(open_study(tmp_path), 7)
    resumed = open_study(tmp_path)
    assert resumed.num_epochs == 7
    run(resumed, 5)
    assert resumed.num_epochs == sum(len(trial.epochs) for trial in resumed.trials) == 12


def test_a_larger_budget_on_resume_moves_the_first_rung_for_the_epochs_to_come(tmp_path):
    small = open_study(tmp_path, architectures=["cnn"], max_total_epochs=40, sampler="random")
    run(small, 40)
    assert {len(trial.epochs) for trial in small.trials if trial.state is State.PRUNED} >= {1}
    before = {trial.number: len(trial.epochs) for trial in small.trials if trial.state is not State.RUNNING}
    large = open_study(tmp_path, architectures=["cnn"], max_total_epochs=200, sampler="random")
    assert run(large)
    after = {trial.number: len(trial.epochs) for trial in large.trials}
    assert before.items() <= after.items()
    assert {after[number] for number in after.keys() - before.keys()} == {3, 9}


def test_hours_are_counted_over_resumptions(tmp_path):
    study = open_study(tmp_path, max_hours=1.0)
    study._started -= 3590
    trial = study.ask()
    study.report(trial.number, measure(trial, 1), "cpu")
    resumed = open_study(tmp_path, max_hours=1.0)
    assert resumed.halt_reason is None
    assert resumed.elapsed_s > 3589
    resumed._started -= 11
    assert resumed.halt_reason == "the budget of 1 hours is used"


@pytest.mark.parametrize("is_training", [True, False])
def test_a_search_whose_hours_are_used_stays_ended_until_it_gets_more(tmp_path, is_training):
    study = open_study(tmp_path, max_hours=1.0, max_epochs=1, grace_epochs=1)
    first = study.ask()
    study.report(first.number, measure(first, 1), "cpu")
    if is_training:
        study.ask()
    study._started -= 3600
    assert study.ask() is None
    study.halt(study.halt_reason)
    resumed = open_study(tmp_path, max_hours=1.0)
    assert resumed.ask() is None
    assert resumed.halt_reason == describe_ending(resumed.config, resumed.trials, resumed._journal)
    lines = (tmp_path / "study.journal").read_bytes()
    resumed.halt(resumed.halt_reason)
    assert (tmp_path / "study.journal").read_bytes() == lines
    extended = open_study(tmp_path, max_hours=1.5)
    assert extended.ask() is not None
    assert 3600 < extended.elapsed_s < 3700


def test_a_search_whose_hours_an_early_version_saw_used_stays_ended(tmp_path):
    study = open_study(tmp_path, max_hours=1.0)
    study.ask()
    study.halt("the budget of 1 hours is used")
    assert open_study(tmp_path, max_hours=1.0).ask() is None
    assert open_study(tmp_path, max_hours=1.5).ask() is not None


def test_recipes_are_the_first_trials(tmp_path):
    recipes = [{"architecture": "resnet50"}, {"architecture": "cnn", "params": {"filters": 48}}]
    with pytest.raises(ValueError, match="learning_rate"):
        open_study(tmp_path, recipes=[{"architecture": "cnn", "params": {"learning_rate": 0.5}}])
    study = open_study(tmp_path, recipes=recipes)
    assert [study.ask().architecture for _ in range(2)] == ["resnet50", "cnn"]
    assert study.trials[1].params["filters"] == 48
    assert study.trials[1].params["learning_rate"] == 1e-3


@pytest.mark.parametrize("limit", [None, 7])
def test_samplers_do_not_learn_from_a_recipe_outside_the_space(tmp_path, limit):
    recipe = {"architecture": "cnn", "params": {"learning_rate": 0.5, "filters": 96}}
    settings = {"recipes": [recipe], "evaluation": {"baselines": True}, "architectures": ["cnn"], "num_trials": 9}
    while not run(study := open_study(tmp_path, **settings), limit):
        pass
    assert study.trials[0].params["filters"] == 96
    assert [trial.number for trial in study._candidates["cnn"].sampler._history.trials] == list(range(1, 9))


def test_listeners_are_told_after_the_record_was_written(tmp_path):
    class Reader(Recorder):
        def on_epoch(self, trial):
            recorded = Journal(tmp_path / "study.journal", "x", note=print).load()[trial.number]
            assert recorded.epochs == trial.epochs
            super().on_epoch(trial)

    reader = Reader()
    run(open_study(tmp_path, [reader], num_trials=2, max_epochs=2))
    assert reader.events[:4] == [("start", 0), ("epoch", 0, 1), ("epoch", 0, 2), ("end", 0, State.COMPLETE)]


@pytest.mark.parametrize(
    ("values", "patience", "delta", "converged"),
    [
        ([], 1, 0.0, False),
        ([0.5], 1, 0.0, False),
        ([0.5, 0.5], 1, 0.0, True),
        ([0.5, 0.4, 0.6], 2, 0.0, False),
        ([0.5, 0.4, 0.5], 2, 0.0, True),
        ([0.5, 0.54, 0.58], 2, 0.1, True),
        ([0.5, 0.54, 0.62], 2, 0.1, False),
        ([0.5, 0.6, 0.59, 0.58], 3, 0.0, False),
    ],
)
def test_a_curve_has_converged_when_no_epoch_of_the_last_few_was_better(values, patience, delta, converged):
    assert is_converged(values, patience, delta) is converged


def run_plateaus(study, limit=None):
    """Run trials whose accuracy rises by a tenth an epoch up to one that the number decides, and then stays."""

    def level(trial, epoch):
        return measure(trial, 1) | {"epoch": epoch, "accuracy": 0.1 * min(epoch, 1 + trial.number % 5)}

    trained = 0
    while (trial := study.ask()) is not None:
        while trained != limit:
            trained += 1
            if study.report(trial.number, level(trial, len(trial.epochs) + 1), "cpu"):
                break
        else:
            return False
    return True


def test_a_trial_that_gets_no_better_is_complete(tmp_path):
    study = open_study(tmp_path, num_trials=10, max_epochs=9, scheduler="none", patience_epochs=3)
    run_plateaus(study)
    assert [len(trial.epochs) for trial in study.trials] == [4, 5, 6, 7, 8] * 2
    assert {(trial.state, trial.reason) for trial in study.trials} == {(State.COMPLETE, "no better for 3 epochs")}


def test_a_trial_in_its_last_epoch_is_complete_for_that(tmp_path):
    study = open_study(tmp_path, num_trials=5, max_epochs=4, scheduler="none", patience_epochs=3)
    run_plateaus(study)
    assert {(trial.state, trial.reason) for trial in study.trials} == {(State.COMPLETE, None)}


def test_patience_changes_nothing_at_the_rungs(tmp_path):
    (tmp_path / "patient").mkdir()
    (tmp_path / "endless").mkdir()
    patient = open_study(tmp_path / "patient", num_trials=20, patience_epochs=4, sampler="random")
    endless = open_study(tmp_path / "endless", num_trials=20, sampler="random")
    run_plateaus(patient)
    run_plateaus(endless)
    stopped = [[trial.number for trial in study.trials if trial.state is State.PRUNED] for study in (patient, endless)]
    assert stopped[0] == stopped[1] != []
    rungs = [study._schedulers["cnn"].rungs for study in (patient, endless)]
    assert rungs[0] == rungs[1]


@pytest.mark.parametrize("limit", [1, 3, 4, 7])
def test_a_killed_study_with_patience_equals_one_that_is_not(tmp_path, limit):
    search = {"num_trials": 12, "patience_epochs": 2, "scheduler": "asha"}
    (tmp_path / "straight").mkdir()
    (tmp_path / "killed").mkdir()
    straight = open_study(tmp_path / "straight", **search)
    run_plateaus(straight)
    while not run_plateaus(killed := open_study(tmp_path / "killed", **search), limit):
        pass
    assert summarize(killed) == summarize(straight)
    assert {trial.reason for trial in killed.trials} >= {"no better for 2 epochs"}


def test_an_end_by_patience_that_was_not_recorded_is_decided_again(tmp_path):
    search = {"num_trials": 1, "patience_epochs": 2, "scheduler": "none"}
    run_plateaus(open_study(tmp_path, **search))
    lines = (tmp_path / "study.journal").read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if '"state"' in line)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "study.journal").write_text("".join(lines[:last]))
    resumed = open_study(tmp_path / "cut", **search).trials[0]
    assert (resumed.state, resumed.reason) == (State.COMPLETE, "no better for 2 epochs")


@pytest.mark.parametrize("divide", ["epochs", "seconds", "value"])
@pytest.mark.parametrize("limit", [1, 2, 5, 13])
def test_a_killed_study_that_divides_what_is_measured_equals_one_that_is_not(tmp_path, divide, limit):
    search = {"divide": divide, "shares": {"cnn": 1, "resnet50": 2}, "min_trials": 2}
    (tmp_path / "straight").mkdir()
    (tmp_path / "killed").mkdir()
    straight = open_study(tmp_path / "straight", **search)
    run(straight)
    while not run(killed := open_study(tmp_path / "killed", **search), limit):
        pass
    assert summarize(killed) == summarize(straight)


def test_a_study_whose_space_was_changed_by_hand_continues(tmp_path):
    run(open_study(tmp_path, num_trials=6))
    config = parse(
        {
            "name": "x",
            "search": {"num_trials": 12, "max_epochs": 9, "architectures": ["cnn"]},
            "space": {
                "cnn": {"filters": {"choice": [8, 100]}, "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}}
            },
        }
    )
    journal = Journal(tmp_path / "study.journal", "x", note=print)
    journal.add_change(["space.cnn.filters: changed"])
    changed = Study(config, journal)
    assert run(changed)
    assert [trial.architecture for trial in changed.trials[6:]] == ["cnn"] * 6
    assert {trial.params["filters"] for trial in changed.trials[6:]} <= {8, 100}


@pytest.mark.parametrize("limit", [None, 2, 11])
def test_the_first_trials_are_spared_if_wished_and_count_at_the_rungs_all_the_same(tmp_path, limit):
    recipes = [{"architecture": "cnn", "params": {"filters": 8, "learning_rate": rate}} for rate in (1e-3, 1e-1, 1e-4)]
    settings = {"spare_first": True, "architectures": ["cnn"], "first": ["a", "b", "c"], "scheduler": "asha"}
    study = open_study(tmp_path, recipes=recipes, **settings)
    if not run(study, limit):
        study = open_study(tmp_path, recipes=recipes, **settings)
        assert run(study)
    assert [len(trial.epochs) for trial in study.trials[:3]] == [9, 9, 9]
    assert {trial.state for trial in study.trials[3:]} == {State.COMPLETE, State.PRUNED}
    other = tmp_path / "other"
    other.mkdir()
    stopped = open_study(other, recipes=recipes, **{**settings, "spare_first": False})
    assert run(stopped)
    assert stopped.trials[1].state is State.PRUNED
    assert [trial.params for trial in stopped.trials[:4]] == [trial.params for trial in study.trials[:4]]

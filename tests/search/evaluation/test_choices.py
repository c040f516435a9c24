import dataclasses
from types import SimpleNamespace

import pytest
from rich.console import Console

from search.cluster.job import Failure
from search.config.load import parse
from search.config.yaml import format_yaml
from search.evaluation.choices import (
    build_calibration,
    build_entry,
    check_winners,
    choose,
    choose_winners,
    list_retrainings,
    read_entry,
    reuse_calibration,
    stamp,
)
from search.evaluation.evaluate import _calibrate
from search.evaluation.result import Calibration
from search.record.trial import State, Trial
from trainables.config import list_defaults
from trainables.errors import InputError

FINGERPRINT = "f" * 64


def make_trial(number, *values, architecture="cnn", state=State.COMPLETE, reason=None):
    epochs = [{"epoch": epoch, "accuracy": value} for epoch, value in enumerate(values, start=1)]
    params = {"filters": number}
    return Trial(number=number, architecture=architecture, params=params, epochs=epochs, state=state, reason=reason)


def make_config(**evaluation):
    return parse({"name": "x", "evaluation": evaluation, "search": {"max_epochs": 3}})


def plan(config, trials):
    return list_retrainings(config, trials, choose(config, trials, FINGERPRINT))


def test_winners_are_the_best_on_validation_at_any_epoch():
    trials = [make_trial(0, 0.7, 0.8), make_trial(1, 0.9, 0.6), make_trial(2, 0.85, state=State.PRUNED)]
    assert [trial.number for trial in choose_winners(trials, "cnn", 2)] == [1, 2]


def test_the_earlier_trial_wins_a_tie():
    assert choose_winners([make_trial(0, 0.8), make_trial(1, 0.8)], "cnn", 1)[0].number == 0


@pytest.mark.parametrize("state", [State.FAIL, State.RUNNING])
def test_a_trial_that_failed_or_has_not_ended_never_wins(state):
    assert choose_winners([make_trial(0, 0.99, state=state), make_trial(1, 0.1)], "cnn", 5)[0].number == 1


def test_a_retraining_ends_where_its_winner_was_best():
    trials = [make_trial(0, 0.7, 0.9, 0.8), make_trial(1, 0.5, architecture="resnet50")]
    retrainings = plan(make_config(seeds=2), trials)
    assert [retraining.label for retraining in retrainings] == [
        "cnn-seed0",
        "cnn-seed1",
        "resnet50-seed0",
        "resnet50-seed1",
    ]
    assert (retrainings[0].epochs, retrainings[0].max_epochs) == (2, 3)
    assert len({retraining.train_seed for retraining in retrainings}) == 4


def test_lower_ranks_have_their_own_files():
    trials = [make_trial(0, 0.7), make_trial(1, 0.9), make_trial(2, 0.5, architecture="resnet50")]
    labels = [retraining.label for retraining in plan(make_config(seeds=1, top_k=2), trials)]
    assert labels == ["cnn-seed0", "cnn-rank2-seed0", "resnet50-seed0"]


def test_an_architecture_without_a_finished_trial_is_noted_and_none_at_all_refused():
    trials = [make_trial(0, 0.5), make_trial(1, 0.5, architecture="resnet50", state=State.RUNNING)]
    assert check_winners(make_config(), trials[:1]) == ["No resnet50 trial was run."]
    assert check_winners(make_config(), trials) == ["No resnet50 trial has finished."]
    with pytest.raises(InputError, match="nothing to evaluate"):
        check_winners(make_config(), [])


def test_an_architecture_whose_trials_all_failed_is_noted_with_the_reason():
    failed = make_trial(1, architecture="resnet50", state=State.FAIL, reason="out of GPU memory")
    found = check_winners(make_config(), [make_trial(0, 0.5), failed])
    assert found == ["Every resnet50 trial failed, trial 1: out of GPU memory."]


def test_an_entry_is_plain_yaml_and_reads_back_as_the_same_choices():
    choices = choose(make_config(top_k=2), [make_trial(0, 0.7), make_trial(1, 0.9)], FINGERPRINT)
    entry = build_entry(choices)
    assert "opened: null" in format_yaml(entry)
    assert read_entry(entry) == choices


def test_a_damaged_entry_is_refused():
    with pytest.raises(InputError, match="evaluations, is damaged: rule: missing"):
        read_entry({"chosen": stamp(), "opened": None})


def test_a_threshold_once_chosen_on_validation_is_kept_for_the_same_choices_only():
    config, trials = make_config(threshold="validation"), [make_trial(0, 0.7), make_trial(1, 0.9)]
    fresh = choose(config, trials, FINGERPRINT)
    assert fresh.needs_calibration(fresh.winners[0])
    chosen = dataclasses.replace(fresh, winners=(dataclasses.replace(fresh.winners[0], threshold=0.4),))
    evaluations = [build_entry(chosen)]
    assert reuse_calibration(evaluations, fresh) == chosen
    assert not reuse_calibration(evaluations, fresh).needs_calibration(chosen.winners[0])
    others = choose(config, [*trials, make_trial(2, 0.95)], FINGERPRINT)
    assert reuse_calibration(evaluations, others) == others
    assert reuse_calibration([], fresh) == fresh


def test_a_temperature_once_fitted_on_validation_is_kept_and_given_to_the_retrainings():
    config, trials = make_config(temperature="validation", seeds=1), [make_trial(0, 0.7)]
    fresh = choose(config, trials, FINGERPRINT)
    assert (fresh.temperature, fresh.winners[0].temperature, fresh.winners[0].threshold) == ("validation", None, 0.5)
    assert fresh.needs_calibration(fresh.winners[0])
    fitted = dataclasses.replace(fresh, winners=(dataclasses.replace(fresh.winners[0], temperature=1.7),))
    assert reuse_calibration([build_entry(fitted)], fresh) == fitted
    assert [each.temperature for each in list_retrainings(config, trials, fitted)] == [1.7]
    other = choose(make_config(temperature=1.7, seeds=1), trials, FINGERPRINT)
    assert reuse_calibration([build_entry(fitted)], other) == other
    assert not other.needs_calibration(other.winners[0])


def test_values_from_validation_are_kept_when_only_other_models_or_seeds_are_added():
    trials = [make_trial(0, 0.9), make_trial(1, 0.8, architecture="resnet50"), make_trial(2, 0.7)]
    config = make_config(temperature="validation", max_train_images="all", seeds=1)
    fresh = choose(config, trials, FINGERPRINT)
    fitted = dataclasses.replace(
        fresh, winners=tuple(winner.complete(None, 1.7, (0.6, 0.7, 0.8)) for winner in fresh.winners)
    )
    wanted = make_config(temperature="validation", max_train_images="all", seeds=2, front=True)
    more = reuse_calibration([build_entry(fitted)], choose(wanted, trials, FINGERPRINT, front=[2]))
    assert [(winner.label, winner.temperature, winner.curve) for winner in more.winners] == [
        ("cnn", 1.7, (0.6, 0.7, 0.8)),
        ("cnn-rank2", 1.0, None),
        ("resnet50", 1.7, (0.6, 0.7, 0.8)),
    ]
    assert not any(map(more.needs_calibration, more.winners))
    second = dataclasses.replace(wanted, evaluation=dataclasses.replace(wanted.evaluation, top_k=2))
    other = reuse_calibration([build_entry(more)], choose(second, trials, FINGERPRINT))
    assert [winner.label for winner in other.winners if other.needs_calibration(winner)] == ["cnn-rank2"]


def test_only_the_winners_of_chosen_architectures_are_trained_on_train_alone():
    trials = [make_trial(0, 0.9), make_trial(1, 0.8, architecture="resnet50")]
    wanted = {"temperature": "validation", "max_train_images": "all", "seeds": 1}
    some = choose(make_config(**wanted, calibrate=("cnn",)), trials, FINGERPRINT)
    assert [(winner.label, winner.temperature, some.needs_calibration(winner)) for winner in some.winners] == [
        ("cnn", None, True),
        ("resnet50", 1.0, False),
    ]
    cnn, resnet50 = some.winners
    some = dataclasses.replace(some, winners=(cnn.complete(None, 1.7, (0.6, 0.7)), resnet50))
    assert not any(map(some.needs_calibration, some.winners))
    everything = reuse_calibration([build_entry(some)], choose(make_config(**wanted), trials, FINGERPRINT))
    assert [(winner.temperature, everything.needs_calibration(winner)) for winner in everything.winners] == [
        (1.7, False),
        (None, True),
    ]
    none = choose(make_config(**wanted, calibrate=()), trials, FINGERPRINT)
    assert not any(map(none.needs_calibration, none.winners))


def test_a_training_on_train_alone_that_failed_is_known_to_have_failed_and_not_repeated():
    config, trials = make_config(temperature="validation", seeds=1), [make_trial(0, 0.7)]
    fresh = choose(config, trials, FINGERPRINT)
    failed = dataclasses.replace(fresh, winners=(fresh.winners[0].complete(None, 1.0, None, "loss is nan"),))
    again = reuse_calibration([build_entry(failed)], fresh)
    assert again == failed
    assert (again.winners[0].failure, again.needs_calibration(again.winners[0])) == ("loss is nan", False)


def calibrate(threshold, result):
    """Calibrate one winner with a retrainer that returns a result."""
    config, trials = (
        make_config(temperature="validation", max_train_images="all", threshold=threshold),
        [make_trial(0, 1)],
    )
    retrainer = SimpleNamespace(
        config=config, console=Console(quiet=True), calibrate=lambda runs: {run.label: result for run in runs}
    )
    return _calibrate(retrainer, trials, choose(config, trials, FINGERPRINT)).winners[0]


def test_a_training_on_train_alone_that_fails_leaves_a_winner_without_temperature_and_curve():
    failure = Failure("loss is nan in epoch 1", "")
    hostile = calibrate(0.5, Failure("\udcff" + "x" * 10_000, "")).failure
    assert (hostile[:7], len(hostile)) == (r"\udcffx", 500)
    winner = calibrate(0.5, failure)
    assert (winner.threshold, winner.temperature, winner.curve) == (0.5, 1.0, ())
    assert winner.failure == "loss is nan in epoch 1"
    with pytest.raises(InputError, match=r"validation of cnn: loss is nan in epoch 1; evaluation.threshold=0\.5 does"):
        calibrate("validation", failure)
    winner = calibrate("validation", Calibration(threshold=0.4, temperature=1.3, curve=(0.5, 0.6, 0.7)))
    assert (winner.threshold, winner.temperature, winner.curve) == (0.4, 1.3, (0.5, 0.6, 0.7))


@pytest.mark.parametrize("threshold", [0.5, "validation"])
def test_a_training_on_train_alone_whose_worker_broke_down_is_continued_before_any_choice_is_final(threshold):
    failure = Failure("its worker broke down 3 times, last: killed", "", is_breakdown=True)
    with pytest.raises(
        InputError, match=r"validation of cnn: its worker broke down 3 times, .*: killed; evaluate again"
    ):
        calibrate(threshold, failure)


@pytest.mark.parametrize(("threshold", "baseline"), [(0.5, 1.0), ("validation", None)])
def test_a_baseline_has_a_temperature_of_validation_only_with_such_a_threshold(threshold, baseline):
    config = make_config(temperature="validation", threshold=threshold, top_k=1, front=True)
    chosen = choose(config, [make_trial(0, 0.7), make_trial(1, 0.6)], FINGERPRINT, front=[1])
    assert [winner.temperature for winner in chosen.winners] == [None, baseline]


def test_choices_of_before_temperatures_have_that_of_1():
    choices = choose(make_config(seeds=1), [make_trial(0, 0.7)], FINGERPRINT)
    entry = build_entry(choices)
    del entry["temperature"], entry["winners"][0]["temperature"]
    assert read_entry(entry) == choices


def test_a_threshold_is_chosen_by_a_training_of_its_own():
    config, trials = make_config(threshold="validation", seeds=1), [make_trial(0, 0.7)]
    choices = choose(config, trials, FINGERPRINT)
    calibration = build_calibration(config, trials, choices.winners[0], choices)
    (retraining,) = list_retrainings(config, trials, choices)
    assert calibration.label == "cnn-threshold"
    assert calibration.train_seed != retraining.train_seed
    assert calibration.epochs == retraining.epochs


@pytest.mark.parametrize(("images", "used"), [("all", None), (500, 500)])
def test_retrainings_with_other_images_than_the_search_train_the_whole_schedule(images, used):
    config, trials = make_config(max_train_images=images, seeds=1), [make_trial(0, 0.7, 0.9, 0.8)]
    choices = choose(config, trials, FINGERPRINT)
    (retraining,) = list_retrainings(config, trials, choices)
    assert (retraining.epochs, retraining.max_train_images) == (3, used)
    assert f"with {images} images for 3 epochs" in choices.rule
    assert choices.needs_calibration(choices.winners[0])
    measured = dataclasses.replace(choices, winners=(dataclasses.replace(choices.winners[0], curve=(0.6, 0.7, 0.8)),))
    assert not measured.needs_calibration(measured.winners[0])
    assert reuse_calibration([build_entry(measured)], choices) == measured
    assert reuse_calibration([build_entry(measured)], choose(make_config(seeds=1), trials, FINGERPRINT)) != measured


def test_architectures_and_recipes_may_have_their_own_numbers_of_seeds():
    trials = [make_trial(0, 0.9), make_trial(1, 0.5), make_trial(2, 0.8, architecture="resnet50")]
    trials[1].params = list_defaults("cnn") | {"filters": 32}
    seeds = {"cnn": 3, "resnet50": 2, "paper_cnn": 1}
    config = parse({"name": "x", "evaluation": {"baselines": True, "seeds": seeds}, **RECIPES})
    labels = [each.label for each in plan(config, trials)]
    assert labels == [
        *("cnn-seed0", "cnn-seed1", "cnn-seed2"),
        "cnn-rank2-seed0",
        *("resnet50-seed0", "resnet50-seed1"),
    ]


@pytest.mark.parametrize("seeds", [{"cnn": 3}, {"cnn": 3, "resnet50": 2, "vgg": 1}, {"cnn": 0, "resnet50": 1}])
def test_numbers_of_seeds_that_fit_no_architecture_are_refused(seeds):
    with pytest.raises(InputError, match=r"evaluation\.seeds"):
        make_config(seeds=seeds)


RECIPES = {
    "space": {"cnn": {"filters": {"low": 8, "high": 64}}},
    "search": {"max_epochs": 3, "first": ["recipes/paper_cnn.yaml", "recipes/wide.yaml"]},
    "recipes": [{"architecture": "cnn"}, {"architecture": "cnn", "params": {"filters": 64}}],
}


def test_baselines_are_retrained_beside_the_winners_and_keep_their_rank():
    trials = [make_trial(number, accuracy) for number, accuracy in enumerate((0.5, 0.6, 0.9, 0.8))]
    for trial, filters in ((trials[0], 32), (trials[1], 64)):
        trial.params = list_defaults("cnn") | {"filters": filters}
    config = parse({"name": "x", "evaluation": {"baselines": True, "seeds": 1}, **RECIPES})
    choices = choose(config, trials, FINGERPRINT)
    assert [(winner.trial, winner.rank, winner.recipe) for winner in choices.winners] == [
        (2, 1, None),
        (1, 3, "wide"),
        (0, 4, "paper_cnn"),
    ]
    assert [each.label for each in list_retrainings(config, trials, choices)] == [
        "cnn-seed0",
        "cnn-rank3-seed0",
        "cnn-rank4-seed0",
    ]
    without = parse({"name": "x", **RECIPES})
    assert [winner.trial for winner in choose(without, trials, FINGERPRINT).winners] == [2]


def test_a_recipe_that_wins_is_retrained_once():
    trials = [make_trial(0, 0.9), make_trial(1, 0.8)]
    trials[0].params = list_defaults("cnn")
    config = parse({"name": "x", "evaluation": {"baselines": True}, **RECIPES})
    assert [(winner.rank, winner.recipe) for winner in choose(config, trials, FINGERPRINT).winners] == [
        (1, "paper_cnn")
    ]


def test_a_configuration_that_was_tried_twice_is_chosen_once():
    trials = [make_trial(number, accuracy) for number, accuracy in enumerate((0.7, 0.9, 0.9, 0.6))]
    trials[1].params = trials[2].params = trials[0].params
    assert [trial.number for trial in choose_winners(trials, "cnn", 3)] == [1, 3]
    trials[2].params = list_defaults("cnn") | {"filters": 0}  # as the code of an older study left out what is new
    assert [trial.number for trial in choose_winners(trials, "cnn", None)] == [1, 3]


def test_configurations_that_differ_in_parameters_without_effect_are_one():
    trials = [make_trial(number, accuracy) for number, accuracy in enumerate((0.9, 0.8, 0.7))]
    for trial, units in zip(trials, (64, 128, 64), strict=True):
        trial.params = list_defaults("cnn") | {"dense_layers": 0, "dense_units": units}
    trials[2].params["dense_layers"] = 1
    assert [trial.number for trial in choose_winners(trials, "cnn", None)] == [0, 2]


def test_the_rule_says_that_configurations_are_distinct_where_more_than_one_is_chosen():
    rules = [choose(make_config(top_k=top_k), [make_trial(0, 0.7)], FINGERPRINT).rule for top_k in (1, 2)]
    assert ["equal configurations" in rule for rule in rules] == [False, True]


def test_a_recipe_that_was_proposed_again_is_one_baseline_with_its_best_trial():
    trials = [make_trial(number, accuracy) for number, accuracy in enumerate((0.5, 0.6, 0.9, 0.8))]
    for trial, filters in ((trials[0], 32), (trials[1], 64), (trials[3], 32)):
        trial.params = list_defaults("cnn") | {"filters": filters}
    config = parse({"name": "x", "evaluation": {"baselines": True, "seeds": 1}, **RECIPES})
    chosen = choose(config, trials, FINGERPRINT).winners
    assert [(winner.trial, winner.rank, winner.recipe) for winner in chosen] == [
        (2, 1, None),
        (3, 2, "paper_cnn"),
        (1, 3, "wide"),
    ]


def test_a_threshold_that_was_set_is_kept_as_the_float32_that_it_is_compared_as():
    choices = choose(make_config(threshold=0.3), [make_trial(0, 0.7)], FINGERPRINT)
    assert choices.threshold == 0.3
    assert choices.winners[0].threshold == 0.30000001192092896
    assert read_entry(build_entry(choices)) == choices

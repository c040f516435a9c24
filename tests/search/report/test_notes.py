import dataclasses

import pytest

from search.config.load import parse
from search.evaluation import result
from search.record.trial import State, Trial
from search.report.notes import describe_changes, list_notes
from trainables.config import list_defaults

CONFIG = parse({"name": "x", "search": {"num_trials": 2}, "data": {"path": "cifake.zip"}})
RECORD = {"data": {"fingerprint": "f"}}


def make_trial(number, **params):
    return Trial(number=number, architecture="cnn", params=params, epochs=[{"seconds": 90.0}], state=State.COMPLETE)


def make_model(trial=0, *, threshold=0.5, rank=1):
    return result.TestedModel(
        label="cnn-seed0",
        architecture="cnn",
        rank=rank,
        seed=0,
        trial=trial,
        parameters=1,
        threshold=threshold,
        metrics={},
        confusion=((1, 0), (0, 1)),
        cost={},
    )


def test_no_note_is_written_that_does_not_apply():
    notes = " ".join(list_notes(CONFIG, RECORD, [make_trial(0), make_trial(1)], [make_model()]))
    for word in ("averaging", "Left out", "Skipped", "embedded", "had ended", "above the probability", "aseline"):
        assert word not in notes


def test_the_note_names_the_trained_seeds_not_the_configured_ones():
    record = RECORD | {"evaluations": [{"seeds": 2, "top_k": 1, "winners": []}]}
    config = dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, seeds=9))
    assert "with 2 seeds, tested once" in list_notes(config, record, [make_trial(0)], [make_model()])[0]


def test_changes_during_the_search_are_noted():
    (note,) = describe_changes([{"time": "2026-11-25T01:00:00+00:00", "differences": ["data.path: other images"]}])
    assert note.startswith("The study was changed: at 2026-11-25T01:00:00+00:00")
    assert note.endswith("although data.path: other images.")


def test_flip_averaging_is_named_with_the_configuration_it_is_part_of():
    trials = [make_trial(0), make_trial(1, flip_average=True)]
    notes = list_notes(CONFIG, RECORD, trials, [make_model(0), make_model(1, rank=2)])
    assert any(note.startswith("Flip averaging (flip_average) is part of cnn (rank 2):") for note in notes)


def test_trials_in_two_precisions_are_told():
    trials = [make_trial(0), make_trial(1), make_trial(2), make_trial(3)]
    for trial, precision in zip(trials, ("bfloat16", "float32", "bfloat16"), strict=False):
        trial.attributes["precision"] = precision
    notes = list_notes(CONFIG, RECORD, trials, [make_model()])
    assert "Of the trials of cnn, 2 computed in bfloat16 and 1 in float32." in notes
    trials[1].attributes["precision"] = "bfloat16"
    assert not any("float32" in note for note in list_notes(CONFIG, RECORD, trials, [make_model()]))


def test_a_threshold_from_validation_is_told():
    record = RECORD | {"evaluations": [{"seeds": 1, "top_k": 1, "winners": [], "threshold": "validation"}]}
    notes = list_notes(CONFIG, record, [make_trial(0), make_trial(1)], [make_model(threshold=0.4321)])
    assert any("training on train alone: cnn 0.4321." in note for note in notes)
    notes = list_notes(CONFIG, record, [make_trial(0), make_trial(1)], [make_model(threshold=0.5)])
    assert any("training on train alone: cnn 0.5000." in note for note in notes)


def test_a_threshold_that_the_user_set_is_not_called_one_of_validation():
    record = RECORD | {"evaluations": [{"seeds": 1, "top_k": 1, "winners": [], "threshold": 0.7}]}
    notes = list_notes(CONFIG, record, [make_trial(0), make_trial(1)], [make_model(threshold=0.7)])
    assert any("above the probability that evaluation.threshold sets: cnn 0.7000." in note for note in notes)
    assert not any("validation for a training" in note for note in notes)


def test_images_left_out_are_told_and_that_near_duplicates_are_not():
    record = {"data": {"leaked": 158, "duplicates": 920, "skipped": ["train/FAKE/x.jpg"]}}
    notes = list_notes(CONFIG, record, [make_trial(0), make_trial(1)], [make_model()])
    assert any("158 images that are also in test, 920 copies. Near-duplicates" in note for note in notes)
    assert any("Skipped 1 files that are not images, the first train/FAKE/x.jpg." in note for note in notes)


def test_a_search_that_had_not_ended_is_told():
    notes = list_notes(CONFIG, RECORD, [make_trial(0)], [make_model()])
    assert "Only 1 of the study's 2 trials had ended." in notes


def test_the_limits_of_the_test_images_are_told_from_their_number():
    model = dataclasses.replace(make_model(), confusion=((9770, 230), (230, 9770)))
    notes = list_notes(CONFIG, RECORD, [make_trial(0), make_trial(1)], [model])
    assert "With 20,000 test images, an accuracy of 97.70% (cnn) is known to ±0.21 points." in notes


@pytest.mark.parametrize("is_told", [True, False])
def test_the_limits_of_a_data_set_are_told_where_the_study_names_them(is_told):
    published = {"notes": ["FAKE comes from one generator, Stable Diffusion 1.4."]} if is_told else {}
    config = parse({"name": "x", "data": {"path": "cifake.zip"}, "published": published})
    notes = list_notes(config, RECORD, [make_trial(0)], [make_model()])
    assert any("Stable Diffusion 1.4" in note for note in notes) is is_told


def test_baselines_are_told_with_those_that_had_no_fair_trial():
    def choose(rank, trial, recipe):
        return {"architecture": "cnn", "rank": rank, "trial": trial, "recipe": recipe, "epochs": 3}

    winners = [choose(1, 0, "small_cnn"), choose(2, 2, None), choose(9, 1, "paper_cnn")]
    record = RECORD | {"evaluations": [{"top_k": 2, "winners": winners}]}
    cut = dataclasses.replace(make_trial(1), state=State.PRUNED, reason="stopped by asha at epoch 1")
    models = [make_model(), make_model(1, rank=9)]
    notes = list_notes(CONFIG, record, [make_trial(0), cut, make_trial(2)], models)
    assert "cnn is the recipe small_cnn itself." in notes
    assert any(note.startswith("Baselines: paper_cnn (cnn, rank 9, trial 1). They were tried first") for note in notes)
    assert any(note.startswith("Stopped early as trials") and "paper_cnn (3 epochs)" in note for note in notes)
    whole = dataclasses.replace(CONFIG, search=dataclasses.replace(CONFIG.search, max_epochs=3))
    notes = list_notes(whole, record, [make_trial(0), cut, make_trial(2)], models)
    assert not any(note.startswith("Stopped early as trials") for note in notes)
    notes = list_notes(CONFIG, record, [make_trial(0), cut, make_trial(2)], [make_model()])
    assert not any("paper_cnn" in note for note in notes), "a baseline without a model is not called retrained"


def test_shares_that_were_changed_are_not_told_as_those_of_the_whole_search():
    changes = [{"time": "today", "differences": ["search.shares: {'cnn': 9} became None"]}]
    config = parse({"name": "x"})
    notes = list_notes(config, RECORD, [make_trial(0)], [make_model()], changes)
    assert any("first in other proportions, in the end 1 to 1 among" in note for note in notes)


def test_the_weights_and_the_stem_that_a_resnet50_began_with_are_told():
    trials = [
        dataclasses.replace(make_trial(number, **params), architecture="resnet50")
        for number, params in enumerate(
            ({"stem": "cifar"}, {"weights": "imagenet"}, {"weights": "mine.pt"}, {"stem": "half"})
        )
    ]
    models = [dataclasses.replace(make_model(number, rank=number + 1), architecture="resnet50") for number in range(4)]
    notes = list_notes(CONFIG, RECORD, trials, models)
    assert "resnet50: trained from random weights, with the 3x3 stem." in notes
    assert "resnet50 (rank 2): trained from ImageNet's weights, with the 7x7 stem." in notes
    assert "resnet50 (rank 3): trained from mine.pt, with the 7x7 stem." in notes
    assert "resnet50 (rank 4): trained from random weights, with the 3x3 stem of stride 2." in notes


def test_a_second_opening_with_other_choices_is_marked_and_a_first_is_not():
    def enter(seeds, *, is_opened):
        winners = [{"architecture": "cnn", "rank": 1, "trial": 0}]
        opened = {"time": "2026-11-22T10:00:00+00:00", "commit": "c", "dirty": False} if is_opened else None
        return {"seeds": seeds, "top_k": 1, "threshold": 0.5, "winners": winners, "opened": opened}

    def find_mark(*entries):
        notes = list_notes(CONFIG, RECORD | {"evaluations": list(entries)}, [make_trial(0)], [make_model()])
        return [note for note in notes if "opened before with other choices" in note]

    first, second, planned = enter(2, is_opened=True), enter(3, is_opened=True), enter(4, is_opened=False)
    assert find_mark(first) == find_mark(planned, first) == []
    (note,) = find_mark(first, second, planned)
    earlier = "2026-11-22T10:00:00+00:00 for cnn trial 0, 2 seeds, threshold 0.5"
    assert f"opened before with other choices ({earlier})" in note


def test_a_baseline_whose_trial_failed_is_named():
    study = {
        "name": "x",
        "space": {"cnn": {"filters": {"low": 8, "high": 64}}},
        "search": {"first": ["recipes/paper_cnn.yaml", "recipes/wide.yaml"]},
        "recipes": [{"architecture": "cnn"}, {"architecture": "cnn", "params": {"filters": 64}}],
    }
    paper, wide = (make_trial(number, **list_defaults("cnn") | {"filters": 32 + 32 * number}) for number in range(2))
    trials = [dataclasses.replace(paper, state=State.FAIL, reason="loss became nan"), wide]
    sentence = "The baseline paper_cnn is missing, because its trial 0 failed: loss became nan."
    for wished in (True, False):
        config = parse(study | {"evaluation": {"baselines": wished}})
        notes = list_notes(config, RECORD, trials, [make_model(1)])
        assert (sentence in notes) is wished
        assert not any("wide" in note for note in notes)


def test_a_failed_recipe_that_was_proposed_again_and_finished_is_not_missing():
    search = {"first": ["recipes/paper_cnn.yaml"]}
    recipes = [{"architecture": "cnn"}]
    config = parse({"name": "x", "search": search, "recipes": recipes, "evaluation": {"baselines": True}})
    first, second = (make_trial(number, **list_defaults("cnn")) for number in range(2))
    trials = [dataclasses.replace(first, state=State.FAIL, reason="loss became nan"), second]
    assert not any("is missing" in note for note in list_notes(config, RECORD, trials, [make_model(1)]))


@pytest.mark.parametrize(("num_winners", "is_told"), [(1, True), (2, True), (3, False)])
def test_fewer_distinct_configurations_than_top_k_are_told(num_winners, is_told):
    winners = [{"architecture": "cnn", "rank": rank, "trial": 0} for rank in range(1, num_winners + 1)]
    baseline = {"architecture": "cnn", "rank": 7, "trial": 0, "recipe": "paper_cnn", "epochs": 1}
    record = RECORD | {"evaluations": [{"seeds": 1, "top_k": 3, "winners": [*winners, baseline]}]}
    notes = [note for note in list_notes(CONFIG, record, [make_trial(0)], [make_model()]) if "distinct" in note]
    count = f"Only {num_winners} distinct cnn configuration{'' if num_winners == 1 else 's'} could be retrained"
    assert [note.split(",")[0] for note in notes] == [count] * is_told

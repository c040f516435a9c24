from types import SimpleNamespace

import pytest

from search.report.figures import draw_schedule
from search.report.schedules import describe_lost_schedules, describe_schedules, draw_schedules

CURVE = [0.80, 0.85, 0.90, 0.92, 0.93, 0.935, 0.936, 0.9365]
CHOICES = {
    "winners": [
        {"architecture": "cnn", "rank": 1, "curve": CURVE},
        {"architecture": "cnn", "rank": 2, "curve": [0.7]},
        {"architecture": "resnet50", "rank": 1, "curve": None},
        {"architecture": "Vit", "rank": 1, "curve": [0.6]},
    ]
}
MODELS = [SimpleNamespace(architecture=name, rank=rank) for name, rank in (("cnn", 1), ("cnn", 2), ("resnet50", 1))]


def test_each_training_on_train_alone_has_a_note_and_a_figure_if_its_winner_is_retrained():
    first, second = describe_schedules(CHOICES, MODELS, "accuracy")
    assert "cnn was retrained for all 8 epochs" in first
    assert "0.9350 at epoch 6, 0.9365 at the last" in first
    assert second.startswith("cnn (rank 2) was retrained for all 1 epochs")
    captions, drawn = zip(*draw_schedules(CHOICES, MODELS, "accuracy"), strict=True)
    assert [caption.split(",")[0] for caption in captions] == ["cnn", "cnn (rank 2)"]
    assert all(svg.startswith("<svg") and "0.9365" in svg for svg in drawn[:1])


def test_a_training_on_train_alone_that_failed_is_told():
    choices = {"winners": [{"architecture": "cnn", "rank": 1, "curve": []}, *CHOICES["winners"]]}
    told = "The training of cnn on train alone failed, so nothing says whether its schedule was long enough."
    assert describe_lost_schedules(choices) == [told]
    assert len(draw_schedules(choices, MODELS, "accuracy")) == 2


def test_a_training_on_train_alone_that_was_left_out_is_told_of_the_winners_alone():
    winners = [{"architecture": "resnet50", "rank": rank, "curve": None} for rank in (1, 2)]
    choices = {"calibrate": ["cnn"], "top_k": 1, "temperature": "validation", "winners": winners}
    head = (
        "The training of resnet50 on train alone was left out (evaluation.calibrate), so its temperature is not fitted"
    )
    assert describe_lost_schedules(choices) == [f"{head}."]
    other_images = choices | {"max_train_images": "all"}
    assert describe_lost_schedules(other_images) == [f"{head}, and nothing says whether its schedule was long enough."]
    assert describe_lost_schedules(choices | {"temperature": 1.0}) == []
    assert describe_lost_schedules(choices | {"calibrate": "all"}) == []


def test_a_temperature_that_could_not_be_fitted_is_told_with_the_reason():
    winner = {"architecture": "cnn", "rank": 1, "curve": None, "failure": "loss is nan in epoch 1"}
    choices = {"temperature": "validation", "winners": [winner]}
    told = "The training of cnn on train alone failed (loss is nan in epoch 1), so its temperature is not fitted."
    assert describe_lost_schedules(choices) == [told]
    choices = {"temperature": "validation", "winners": [{**winner, "curve": []}]}
    assert "not fitted, and nothing says whether its schedule was long enough." in describe_lost_schedules(choices)[0]


def test_without_such_a_training_there_is_none():
    assert draw_schedules({}, MODELS, "accuracy") == describe_schedules({}, MODELS, "accuracy") == []


def test_the_figure_marks_three_quarters_of_the_schedule():
    (axes,) = draw_schedule(CURVE, "accuracy", 6).axes
    curve, mark = axes.get_lines()
    assert list(curve.get_ydata()) == pytest.approx(CURVE)
    assert set(mark.get_xdata()) == {6}

import dataclasses

import numpy as np
import pytest

from search.config.load import parse
from search.evaluation import result
from search.report.coverage import (
    CONFIDENCES,
    describe_temperatures,
    measure_coverage,
    tabulate_coverage,
    trace_coverage,
)

LABELS = np.array([0, 0, 1, 1, 1], np.uint8)
PROBABILITIES = np.array([0.02, 0.7, 0.999, 0.85, 0.4], np.float32)
"""The second and the last one are wrong."""


def make_model(seed=0, rank=1, **changes):
    known = {"architecture": "cnn", "rank": rank, "seed": seed, "trial": 0, "parameters": 1, "threshold": 0.5}
    return result.TestedModel(
        label=f"cnn-rank{rank}-seed{seed}", metrics={}, confusion=((1, 1), (1, 2)), cost={}, **known | changes
    )


def make_result(*models, probabilities=PROBABILITIES):
    return result.Result(
        study="mine",
        config=parse({"name": "mine"}),
        manifest={},
        models=list(models),
        trials=[],
        labels=LABELS,
        predictions={model.label: probabilities for model in models},
        mistakes={},
        notes=[],
    )


@pytest.mark.parametrize(
    ("confidence", "share", "accuracy"), [(0.5, 1.0, 0.6), (0.8, 0.6, 1.0), (0.9, 0.4, 1.0), (0.99, 0.2, 1.0)]
)
def test_coverage_is_the_share_of_sure_answers_and_accuracy_that_of_right_ones_among_them(confidence, share, accuracy):
    found = measure_coverage(make_result(make_model()), make_model(), confidence)
    assert (found.share, found.accuracy) == (share, accuracy)


def test_a_model_that_is_sure_of_nothing_has_no_accuracy():
    shy = make_result(make_model(), probabilities=np.full(5, 0.6, np.float32))
    assert measure_coverage(shy, make_model(), 0.9).accuracy is None
    (table,) = tabulate_coverage(shy)
    assert [row[1:] for row in table.rows] == [["100.00", "60.00"], *[["0.00", ""]] * 4]


def test_the_table_has_a_row_for_each_confidence_and_the_winners_alone():
    (table,) = tabulate_coverage(make_result(make_model(), make_model(seed=1), make_model(rank=2)))
    assert table.header == ["Confidence", "cnn, answered", "cnn, right of these"]
    assert [row[0] for row in table.rows] == [str(confidence) for confidence in CONFIDENCES]
    assert table.rows[1][1:] == ["60.00 ± 0.00", "100.00 ± 0.00"]
    assert tabulate_coverage(make_result()) == []


def test_the_line_begins_at_the_surest_image_and_ends_at_the_accuracy():
    ((shares, accuracies),) = trace_coverage(make_result(make_model()))["cnn"]
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(accuracies, [1.0, 1.0, 1.0, 0.75, 0.6])


def test_a_temperature_is_told_with_its_origin_and_one_of_1_is_not():
    warm = dataclasses.replace(make_model(), temperature=1.25)
    assert describe_temperatures({"temperature": "validation"}, [make_model()]) == []
    (note,) = describe_temperatures({"temperature": "validation", "top_k": 1}, [warm])
    assert note.endswith("fitted on validation by a training on train alone: cnn 1.2500.")
    (note,) = describe_temperatures({"temperature": 1.25}, [warm])
    assert note.endswith("that evaluation.temperature sets: cnn 1.2500.")
    bound = dataclasses.replace(make_model(), temperature=0.1)
    assert len(describe_temperatures({"temperature": "validation", "top_k": 1}, [bound])) == 2


def test_a_winner_that_is_not_trained_on_train_alone_has_no_fitted_temperature():
    winners = [{"architecture": name, "rank": 1} for name in ("cnn", "resnet50")]
    choices = {"temperature": "validation", "top_k": 1, "calibrate": ["cnn"], "winners": winners}
    models = [dataclasses.replace(make_model(), temperature=1.25), make_model(architecture="resnet50")]
    (note,) = describe_temperatures(choices, models)
    assert "on train alone: cnn 1.2500. Other models have none" in note


@pytest.mark.parametrize(
    ("threshold", "told"), [(0.5, "cnn 1.2500."), ("validation", "cnn 1.2500, cnn (rank 2) 1.0000.")]
)
def test_a_temperature_that_was_not_fitted_is_not_told_as_fitted(threshold, told):
    models = [dataclasses.replace(make_model(), temperature=1.25), dataclasses.replace(make_model(), rank=2)]
    (note,) = describe_temperatures({"temperature": "validation", "top_k": 1, "threshold": threshold}, models)
    assert told in note
    assert ("Other models have none" in note) is (threshold == 0.5)


@pytest.mark.parametrize("known", [{"failure": "loss is nan in epoch 1"}, {"curve": []}])
def test_a_winner_whose_training_on_train_alone_failed_has_no_fitted_temperature(known):
    failed = {"architecture": "resnet50", "rank": 1, **known}
    choices = {"temperature": "validation", "top_k": 1, "threshold": 0.5, "winners": [failed]}
    models = [
        dataclasses.replace(make_model(), temperature=1.25),
        dataclasses.replace(make_model(), architecture="resnet50"),
    ]
    (note,) = describe_temperatures(choices, models)
    assert "cnn 1.2500. Other models have none" in note
    assert "resnet50" not in note

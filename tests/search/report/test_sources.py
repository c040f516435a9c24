"""The table of the models on images from elsewhere."""

import csv
import io

import numpy as np
import pytest

from search.config.load import parse
from search.evaluation import result as results
from search.evaluation.bootstrap import bound, resample
from search.evaluation.result import RATES, FurtherResult, Result
from search.evaluation.statistics import score
from search.report.sources import COLUMNS, describe_sources, format_sources, summarize_sources, tabulate_sources
from trainables.errors import InputError

LABELS = np.repeat([0, 1], [40, 60]).astype(np.uint8)


def make_model(seed, threshold=0.5):
    return results.TestedModel(
        label=f"cnn-seed{seed}",
        architecture="cnn",
        rank=1,
        seed=seed,
        trial=0,
        parameters=9,
        threshold=threshold,
        metrics=dict.fromkeys((*RATES, "brier", "loss"), 0.5),
        confusion=((1, 1), (1, 1)),
        cost={},
    )


def make_result(*further, seeds=2, threshold=0.5):
    known = {"copies": 3, "alike": 1, "fingerprint": "0" * 64}
    sources = [
        {"name": each.name, "path": "a/b", "counts": [int((each.labels == label).sum()) for label in (0, 1)], **known}
        for each in further
        if each.kind == "source"
    ]
    return Result(
        study="mine",
        config=parse({"name": "mine"}),
        manifest={"evaluations": [{"top_k": 1, "winners": [], "sources": sources}]},
        models=[make_model(seed, threshold) for seed in range(seeds)],
        trials=[],
        labels=LABELS,
        predictions={},
        mistakes={},
        notes=[],
        further=list(further),
    )


def make_source(name="other", labels=LABELS, seeds=2, kind="source"):
    generator = np.random.default_rng(5)
    predictions = {
        f"cnn-seed{seed}": np.clip(labels * 0.4 + 0.6 * generator.random(len(labels)), 0, 1).astype(np.float32)
        for seed in range(seeds)
    }
    return FurtherResult(kind=kind, name=name, labels=labels, predictions=predictions)


def test_a_source_of_both_classes_has_the_figures_of_a_test():
    found = make_source()
    (row,) = summarize_sources(make_result(found))
    tests = []
    for probabilities in found.predictions.values():
        logits = np.log(probabilities.astype(np.float64) / (1 - probabilities.astype(np.float64)))
        tests.append(score(LABELS, logits.astype(np.float32), 0.5)["metrics"])
    for name in ("accuracy", "auroc", "recall", "recall_fake", "ece"):
        mine = [test[name] for test in tests]
        assert row[name] == pytest.approx(np.mean(mine), abs=1e-6), name
        assert row[f"{name}_std"] == pytest.approx(np.std(mine, ddof=1), abs=1e-6), name
    interval = bound(resample(LABELS, [(each, 0.5) for each in found.predictions.values()])["accuracy"])
    assert (row["accuracy_low"], row["accuracy_high"]) == (interval.low, interval.high)
    assert "ece_low" not in row
    assert (row["images_fake"], row["images_real"], row["copies"], row["alike"], row["seeds"]) == (40, 60, 3, 1, 2)


@pytest.mark.parametrize(("label", "column", "other"), [(0, "recall_fake", "recall"), (1, "recall", "recall_fake")])
def test_a_source_of_one_class_has_its_recall_and_the_mean_probability_alone(label, column, other):
    found = make_source(labels=np.full(50, label, dtype=np.uint8))
    (row,) = summarize_sources(make_result(found, threshold=0.55))
    each = np.stack(list(found.predictions.values()))
    right = (each > np.float32(0.55)) == (label == 1)
    assert row[column] == pytest.approx(right.mean())
    assert row["probability"] == pytest.approx(each.mean())
    for name in (column, "probability"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        spread = (right if name == column else each).mean(axis=0).std() * 1.96 / np.sqrt(50)
        assert row[f"{name}_high"] - row[name] == pytest.approx(spread, rel=0.25)
    assert not {other, "accuracy", "auroc", "ece"} & row.keys()


def test_each_model_has_its_own_threshold():
    found = make_source(labels=np.zeros(10, dtype=np.uint8), seeds=1)
    assert summarize_sources(make_result(found, seeds=1, threshold=0.99))[0]["recall_fake"] == 1
    assert summarize_sources(make_result(found, seeds=1, threshold=-1.0))[0]["recall_fake"] == 0


def test_a_model_that_was_not_scored_does_not_count():
    (row,) = summarize_sources(make_result(make_source(seeds=1)))
    assert row["seeds"] == 1
    assert "accuracy_std" not in row


def test_a_result_without_sources_has_no_table():
    assert tabulate_sources(make_result(make_source("jpeg90", kind="perturbation"))) == []
    assert describe_sources(make_result()) == []


def test_the_table_and_the_file_have_a_row_for_each_source():
    result = make_result(make_source(), make_source("fakes", labels=np.zeros(30, dtype=np.uint8)))
    (table,) = tabulate_sources(result)
    assert table.header[:4] == ["Model", "FAKE", "REAL", "Left out: copies + alike"]
    assert [row[:4] for row in table.rows] == [
        ["cnn on other", "40", "60", "3 + 1"],
        ["cnn on fakes", "30", "0", "3 + 1"],
    ]
    assert all(len(row) == len(table.header) for row in table.rows)
    accuracy, auroc, _, real, ece, probability = table.rows[1][4:]
    assert [accuracy, auroc, real, ece] == [""] * 4
    assert " ± " in probability
    rows = list(csv.DictReader(io.StringIO(format_sources(result).decode())))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["model"], row["source"]) for row in rows] == [("cnn", "other"), ("cnn", "fakes")]
    assert float(rows[0]["accuracy"]) == summarize_sources(result)[0]["accuracy"]
    assert rows[1]["accuracy"] == ""


def test_predictions_of_other_images_than_the_choices_say_are_refused():
    result = make_result(make_source())
    result.manifest["evaluations"][0]["sources"][0]["counts"] = [41, 60]
    with pytest.raises(InputError, match="the models were not scored on the images of other"):
        summarize_sources(result)


def test_a_note_says_what_was_left_out_of_a_source():
    (note,) = describe_sources(make_result(make_source()))
    assert note == (
        "other: 40 images of FAKE and 60 of REAL, from a/b. Left out: 3 images with the pixels of a training image, "
        "and 1 that look like one. None has the pixels of a test image."
    )

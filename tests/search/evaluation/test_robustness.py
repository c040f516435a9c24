"""Figures, tables, charts and the file of changed test images, on made-up predictions."""

import csv
import dataclasses
import io
import itertools
import statistics

import numpy as np
import pytest

from search.config.load import parse
from search.evaluation import result as results
from search.evaluation.bootstrap import bound, resample, resample_rights
from search.evaluation.result import FurtherResult, Result
from search.evaluation.robustness import METRICS, UNCHANGED, compare_robustness, measure_robustness
from search.report.robustness import COLUMNS, draw_robustness, format_robustness, tabulate_robustness

LABELS = np.random.default_rng(1).permutation(np.repeat([0, 1], [130, 170])).astype(np.uint8)
NAMES = ("jpeg30", "flip")
THRESHOLDS = {"cnn": 0.5, "resnet50": 0.3}


def predict(*key):
    """Return probabilities of label 1, mostly right; others for each key."""
    generator = np.random.default_rng([sum(map(ord, str(part))) for part in key])
    return (1 / (1 + np.exp(-generator.normal(3.0 * LABELS - 1.5, 2.0)))).astype(np.float32)


def make_model(architecture, seed):
    return results.TestedModel(
        label=f"{architecture}-seed{seed}",
        architecture=architecture,
        rank=1,
        seed=seed,
        trial=0,
        parameters=1,
        threshold=THRESHOLDS[architecture],
        metrics={},
        confusion=((1, 1), (1, 1)),
        cost={},
    )


def make_result(*, seeds=2, names=NAMES, architectures=("cnn", "resnet50")):
    models = [make_model(*each) for each in itertools.product(architectures, range(seeds))]
    return Result(
        study="mine",
        config=parse({"name": "mine"}),
        manifest={"data": {"classes": ["FAKE", "REAL"]}},
        models=models,
        trials=[],
        labels=LABELS,
        predictions={model.label: predict(model.label) for model in models},
        mistakes={},
        notes=[],
        further=[
            FurtherResult(
                kind="perturbation",
                name=name,
                labels=LABELS,
                predictions={model.label: predict(model.label, name) for model in models},
            )
            for name in names
        ],
    )


def list_pairs(result, architecture, name):
    """Return what `resample` takes: the probabilities and the threshold of each seed."""
    known = {each.name: each.predictions for each in result.further} | {UNCHANGED: result.predictions}
    return [
        (known[name][model.label], model.threshold) for model in result.models if model.architecture == architecture
    ]


def test_the_figures_are_those_of_the_bootstrap_of_the_plain_test():
    result = make_result(names=NAMES[:1])
    for row in measure_robustness(result):
        pairs = list_pairs(result, row.model, row.perturbation)
        drawn = resample(LABELS, pairs)
        plain = resample(LABELS, list_pairs(result, row.model, UNCHANGED))
        for metric in METRICS:
            expected = bound(drawn[metric])
            found = row.metrics[metric].interval
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
            if row.perturbation != UNCHANGED:
                expected = bound(drawn[metric] - plain[metric])
                found = row.changes[metric].interval
                assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
        rights = [(probability > np.float32(threshold)) == (LABELS == 1) for probability, threshold in pairs]
        assert row.metrics["accuracy"].mean == statistics.fmean(float(right.mean()) for right in rights)
        assert row.metrics["recall_fake"].mean == statistics.fmean(float(each[LABELS == 0].mean()) for each in rights)
        assert row.metrics["recall"].deviation == statistics.stdev(float(each[LABELS == 1].mean()) for each in rights)


def test_two_architectures_are_compared_on_the_same_images():
    result = make_result(names=NAMES[:1])
    differences = compare_robustness(result)
    assert [(each.first, each.second, each.perturbation) for each in differences] == [
        ("cnn", "resnet50", name) for name in (UNCHANGED, NAMES[0])
    ]
    rows = {(row.model, row.perturbation): row.metrics for row in measure_robustness(result)}
    for each in differences:
        drawn = [resample(LABELS, list_pairs(result, name, each.perturbation)) for name in (each.first, each.second)]
        for metric in METRICS:
            expected = bound(drawn[0][metric] - drawn[1][metric])
            found = each.metrics[metric].interval
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
            means = (rows[name, each.perturbation][metric].mean for name in (each.first, each.second))
            assert each.metrics[metric].mean == pytest.approx(next(means) - next(means))


def test_equal_rows_have_no_difference_and_the_first_row_is_the_plain_test():
    shares = np.random.default_rng(0).random((len(LABELS), 1))
    drawn = resample_rights(LABELS, np.hstack([shares, shares]))
    assert all(np.array_equal(values[:, 0], values[:, 1]) for values in drawn.values())
    result = make_result()
    first = measure_robustness(result)[0]
    right = [(probability > 0.5) == (LABELS == 1) for probability, _ in list_pairs(result, "cnn", UNCHANGED)]
    assert first.metrics["accuracy"].mean == pytest.approx(np.mean(right))
    assert {change.mean for change in first.changes.values()} == {0.0}


def test_without_perturbations_there_is_no_table_no_chart_and_no_row():
    source = FurtherResult(kind="source", name="other", labels=LABELS[:3], predictions={"cnn-seed0": LABELS[:3]})
    for result in (make_result(names=()), dataclasses.replace(make_result(names=()), further=[source])):
        assert (measure_robustness(result), compare_robustness(result)) == ([], [])
        assert (tabulate_robustness(result), draw_robustness(result)) == ([], [])


def test_a_model_whose_scoring_failed_is_left_out():
    result = make_result()
    del result.further[1].predictions["cnn-seed1"]
    assert {row.model: row.seeds for row in measure_robustness(result)} == {"cnn": 1, "resnet50": 2}
    result = make_result()
    result.further[0].predictions.clear()
    result.further[0].predictions["resnet50-seed0"] = result.predictions["resnet50-seed0"]
    assert {row.model: row.seeds for row in measure_robustness(result)} == {"resnet50": 1}
    assert compare_robustness(result) == []


def test_the_tables_name_each_change_with_its_interval_and_the_change_in_points():
    result = make_result()
    cnn, resnet50, difference = tabulate_robustness(result)
    assert cnn.header == ["Test images", "Accuracy", "Recall of FAKE", "Recall of REAL", "Accuracy, change in points"]
    assert [row[0] for row in cnn.rows] == ["unchanged", "JPEG 30", "mirrored"]
    assert [row[-1] for row in (cnn.rows[0], resnet50.rows[0])] == ["", ""]
    row = measure_robustness(result)[1]
    value, change = row.metrics["accuracy"], row.changes["accuracy"]
    ends = f"{100 * value.interval.low:.2f} to {100 * value.interval.high:.2f}"
    assert cnn.rows[1][1] == f"{100 * value.mean:.2f} ± {100 * value.deviation:.2f} ({ends})"
    assert cnn.rows[1][-1].startswith(f"{100 * change.mean:+.2f} ({100 * change.interval.low:.2f} to ")
    assert difference.title == "cnn minus resnet50 on changed test images, in points (95 % interval)"
    assert len(difference.rows) == 3


def test_the_file_has_a_row_for_each_configuration_and_kind_of_images():
    header, *rows = csv.reader(io.StringIO(format_robustness(make_result(seeds=1)).decode()))
    assert tuple(header) == COLUMNS
    assert [row[:3] for row in rows] == [
        [name, kind, "1"] for name in ("cnn", "resnet50") for kind in (UNCHANGED, *NAMES)
    ]
    assert all(row[header.index("accuracy_std")] == "" for row in rows)
    assert all(
        0 <= float(row[header.index("recall_fake_low")]) <= float(row[header.index("recall_fake")]) for row in rows
    )


def test_the_charts_are_drawn_for_each_metric_even_of_a_model_without_errors():
    result = make_result(architectures=("cnn",))
    for each in result.further:
        each.predictions["cnn-seed0"] = each.predictions["cnn-seed1"] = LABELS.astype(np.float32)
    charts = draw_robustness(result)
    assert [caption.partition(", with ")[0] for caption, _ in charts] == [
        "Accuracy",
        "Recall of FAKE",
        "Recall of REAL",
    ]
    assert all("JPEG 30" in svg and "var(--first" in svg for _, svg in charts)

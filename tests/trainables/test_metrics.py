import math

import pytest
import torch
from sklearn import metrics as sklearn_metrics

from trainables.metrics import (
    auroc,
    average_precision,
    count_confusion,
    score,
    score_confusion,
    to_probabilities,
)


def draw(seed: int, *, num: int = 200, levels: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (num,), generator=generator, dtype=torch.uint8)
    logits = torch.randn(num, generator=generator) + labels
    return (logits if levels is None else (logits * levels).round() / levels), labels


@pytest.mark.parametrize("levels", [None, 1, 4], ids=["no ties", "many ties", "some ties"])
@pytest.mark.parametrize("seed", range(5))
def test_every_metric_equals_scikit_learns(seed: int, levels: int | None) -> None:
    logits, labels = draw(seed, levels=levels)
    called, truth = (logits > 0).int().numpy(), labels.numpy()
    recalls = sklearn_metrics.recall_score(truth, called, average=None)
    expected = {
        "loss": sklearn_metrics.log_loss(truth, logits.double().sigmoid().numpy()),
        "accuracy": sklearn_metrics.accuracy_score(truth, called),
        "precision": sklearn_metrics.precision_score(truth, called),
        "recall": sklearn_metrics.recall_score(truth, called),
        "f1": sklearn_metrics.f1_score(truth, called),
        "auroc": sklearn_metrics.roc_auc_score(truth, logits.numpy()),
        "average_precision": sklearn_metrics.average_precision_score(truth, logits.numpy()),
        "false_positive_rate": 1.0 - recalls[0],
        "false_negative_rate": 1.0 - recalls[1],
    }
    assert score(logits, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_precision_recall_and_f1_without_a_hit_are_zero_like_scikit_learns(sign: float) -> None:
    logits, labels = torch.full((5,), sign), torch.full((5,), sign < 0).to(torch.uint8)
    ours, called, truth = score(logits, labels), (logits > 0).int().numpy(), labels.numpy()
    assert ours["precision"] == sklearn_metrics.precision_score(truth, called, zero_division=0) == 0.0
    assert ours["recall"] == sklearn_metrics.recall_score(truth, called, zero_division=0) == 0.0
    assert ours["f1"] == sklearn_metrics.f1_score(truth, called, zero_division=0) == 0.0


@pytest.mark.parametrize(("label", "expected"), [(0, 0.0), (1, 1.0)])
def test_average_precision_of_one_class_is_zero_or_one(label: int, expected: float) -> None:
    assert average_precision(torch.randn(6), torch.full((6,), label)) == expected


@pytest.mark.parametrize("label", [0, 1])
def test_auroc_of_one_class_is_zero(label: int) -> None:
    assert auroc(torch.randn(6), torch.full((6,), label)) == 0.0


@pytest.mark.parametrize(("logits", "expected"), [([1.0, 2.0], 1.0), ([2.0, 1.0], 0.0), ([1.0, 1.0], 0.5)])
def test_auroc_is_the_chance_that_real_outranks_fake(logits: list[float], expected: float) -> None:
    assert auroc(torch.tensor(logits), torch.tensor([0, 1])) == expected


def test_auroc_of_a_hundred_thousand_images_is_exact() -> None:
    logits, labels = torch.arange(100_000.0), (torch.arange(100_000) % 2).to(torch.uint8)
    assert auroc(logits, labels) == pytest.approx(0.5 + 0.5 / 50_000, abs=1e-12)


def test_metrics_of_no_image_are_finite_but_the_loss() -> None:
    values = score(torch.zeros(0), torch.zeros(0, dtype=torch.uint8))
    assert math.isnan(values.pop("loss"))
    assert set(values.values()) == {0.0}


def test_confusion_counts_real_as_positive() -> None:
    logits, labels = torch.tensor([-1.0, 1.0, 2.0, -1.0, -2.0, -3.0, 1.0]), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    assert count_confusion(logits, labels) == [1, 2, 3, 1]


def test_the_papers_cnn_row_follows_from_its_confusion_matrix() -> None:
    values = score_confusion(tn=9428, fp=572, fn=458, tp=9542)
    rounded = {name: round(value, 4) for name, value in values.items()}
    assert rounded == {
        "accuracy": 0.9485, "precision": 0.9434, "recall": 0.9542, "f1": 0.9488, "false_negative_rate": 0.0458,
        "false_positive_rate": 0.0572,
    }  # fmt: skip


def test_the_papers_resnet_row_follows_from_its_confusion_matrix() -> None:
    values = score_confusion(tn=9892, fp=108, fn=694, tp=9306)
    assert [round(values[name], 4) for name in ("precision", "recall", "f1")] == [0.9885, 0.9306, 0.9587]
    assert values["accuracy"] == pytest.approx(0.9599)


def test_an_image_counts_as_real_where_its_probability_as_float32_is_above_a_half():
    logits = torch.tensor([-1e-9, 0.0, 2.0**-23, 2.0**-22, 200.0, -200.0])
    assert to_probabilities(logits).tolist() == [0.5, 0.5, 0.5, 0.5 + 2.0**-24, 1.0, 0.0]
    assert count_confusion(logits, torch.ones(6)) == [0, 0, 4, 2]

"""Statistics of predictions: scores, bootstrap intervals, the test of a difference.

scikit-learn, torchmetrics and scipy are imported where they are used, so that no search waits two seconds for them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.metrics import cross_entropy, to_probabilities

NUM_RESAMPLES = 1000
NUM_BINS = 15
"""Bins of equal width of the calibration error. Source: Guo et al. 2017 (arXiv:1706.04599), section 4."""
CONFIDENCE = 0.95
NUM_AT_ONCE = 50
"""Number of resamples in memory at a time: 8 MB of indices for CIFAKE's 20,000 test images."""

Predictions = tuple[NDArray[np.float32], float]
"""Probabilities of label 1 (M,) and the threshold above which an image is called positive."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The 95 % interval of a figure over the choice of test images."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """McNemar's test of two models on the same images."""

    only_first: int
    """Number of images that only the first model classifies correctly."""
    only_second: int
    """Number of images that only the second model classifies correctly."""
    p: float
    """p-value: probability of a split that is at least as uneven, if both models were equally accurate."""


def call_positive(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return which images (M,) are called positive: their probability of label 1 is above the threshold, as float32."""
    return probabilities > np.float32(threshold)


def score(
    labels: NDArray[np.uint8], logits: NDArray[np.float32], threshold: float, temperature: float = 1.0
) -> dict[str, Any]:
    """Score a test; all figures can be computed again from the stored predictions.

    Args:
        labels: (M,) of 0 and 1.
        logits: (M,).
        threshold: Probability above which an image is called positive.
        temperature: Number by which the logits are divided.

    Returns:
        `metrics` by name, as TestedModel has them, and `confusion`, by label: rows true, columns predicted.
    """
    raw = torch.from_numpy(logits)
    found = score_probabilities(labels, to_probabilities(raw, temperature).numpy(), threshold)
    found["metrics"]["loss"] = cross_entropy(raw.double() / temperature, torch.from_numpy(labels))
    if temperature != 1.0:
        found["metrics"]["ece_uncalibrated"] = _measure_calibration(labels, to_probabilities(raw).numpy())
    return found


def score_probabilities(
    labels: NDArray[np.uint8], probabilities: NDArray[np.float32], threshold: float
) -> dict[str, Any]:
    """Score probabilities (M,) of label 1 as `score` does, without the loss."""
    from sklearn import metrics

    called = call_positive(probabilities, threshold).astype(labels.dtype)
    values = measure(labels, probabilities, threshold)
    confusion = metrics.confusion_matrix(labels, called, labels=[0, 1]).tolist()
    return {"metrics": values, "confusion": tuple(tuple(row) for row in confusion)}


def measure(labels: NDArray[np.uint8], probabilities: NDArray[np.float32], threshold: float) -> dict[str, float]:
    """Return the metrics of probabilities (M,) by name, as TestedModel has them, without `loss`."""
    from sklearn import metrics

    called = call_positive(probabilities, threshold).astype(labels.dtype)
    precisions, recalls, f1s, _ = metrics.precision_recall_fscore_support(
        labels, called, labels=[0, 1], zero_division=0.0
    )
    values = {
        "accuracy": metrics.accuracy_score(labels, called),
        "precision": precisions[1],
        "recall": recalls[1],
        "f1": f1s[1],
        "precision_fake": precisions[0],
        "recall_fake": recalls[0],
        "f1_fake": f1s[0],
        "auroc": metrics.roc_auc_score(labels, probabilities),
        "average_precision": metrics.average_precision_score(labels, probabilities),
        "brier": metrics.brier_score_loss(labels, probabilities),
        "ece": _measure_calibration(labels, probabilities),
    }
    return {name: float(value) for name, value in values.items()}


def choose_threshold(labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> float:
    """Return the threshold on probabilities (M,) of label 1 with the most correct images; nearest to 0.5 in a tie.

    It is halfway between two neighbouring probabilities, or between the outermost and 0 or 1, as float32, since
    `call_positive` compares float32. Between two adjacent float32 numbers it is the lower one.
    """
    scores, places = np.unique(probabilities, return_inverse=True)
    # How many more images are correct than with all called positive, if the 0, 1, ... lowest scores are called
    # negative.
    gains = np.append(0.0, np.cumsum(np.bincount(places, weights=1.0 - 2.0 * labels)))
    lowest = 0.0 if scores[0] > 0 else -1.0  # with a threshold of 0, a probability of 0 is negative
    below, above = np.append(np.float32(lowest), scores), np.append(scores, np.float32(1.0))
    halfway = ((below.astype(np.float64) + above) / 2).astype(np.float32)
    best = np.where(halfway < above, halfway, below)[gains == gains.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def resample(labels: NDArray[np.uint8], models: Sequence[Predictions]) -> dict[str, NDArray[np.float64]]:
    """Score bootstrap resamples of the test images: from each class, as many as it has are drawn with replacement.

    Args:
        labels: (M,) of 0 and 1.
        models: The same configuration over several seeds.

    Returns:
        Metric -> (NUM_RESAMPLES,), its mean over the models. Every call with the same number of labels draws the same
        images, so that differences between two calls are paired. The calibration error is left out: images that are
        drawn twice raise it, so its resampled values give no interval.
    """
    parts = []
    for drawn in _draw(labels):
        indices = torch.from_numpy(drawn)
        truth = torch.from_numpy(labels).int()[indices]
        found = [_measure(truth, *_take(model, indices)) for model in models]
        parts.append({name: np.mean([one[name] for one in found], axis=0) for name in found[0]})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def resample_rights(labels: NDArray[np.uint8], rights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Score the resamples of `resample` for many rows at once, by the metrics that count right images.

    Args:
        labels: (M,) of 0 and 1.
        rights: (M, K), for each row the share of its models that classify the image correctly.

    Returns:
        Metric -> (NUM_RESAMPLES, K), its mean over the models: accuracy, recall and recall_fake.
    """
    parts = []
    for drawn in _draw(labels):
        times = np.stack([np.bincount(row, minlength=len(labels)) for row in drawn]).astype(np.float64)
        parts.append([times[:, labels == label] @ rights[labels == label] for label in (0, 1)])
    negative, positive = np.concatenate(parts, axis=1)
    num_positive = int((labels == 1).sum())
    return {
        "accuracy": (negative + positive) / len(labels),
        "recall": positive / num_positive,
        "recall_fake": negative / (len(labels) - num_positive),
    }


def resample_class(labels: NDArray[np.uint8], models: Sequence[Predictions]) -> dict[str, NDArray[np.float64]]:
    """Do what `resample` does for images of only one class.

    Returns:
        Name -> (NUM_RESAMPLES,): `recall`, and `probability`, the mean probability of label 1.
    """
    rows = {
        "recall": np.mean([call_positive(*model) == (labels == 1) for model in models], axis=0),
        "probability": np.mean([probabilities for probabilities, _ in models], axis=0, dtype=np.float64),
    }
    parts = [{name: row[drawn].mean(axis=1) for name, row in rows.items()} for drawn in _draw(labels)]
    return {name: np.concatenate([part[name] for part in parts]) for name in rows}


def bound(distribution: NDArray[np.float64]) -> Interval:
    """Return the percentile interval of resampled figures (R,); NaN if all are equal.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(distribution, [tail, 1.0 - tail])
    if low == high:  # for example of a model without errors on these images
        low = high = np.nan
    return Interval(low=float(low), high=float(high))


def compare_pair(labels: NDArray[np.uint8], first: Predictions, second: Predictions) -> Pairing:
    """Test whether two models are equally accurate, by the images that only one of them classifies correctly.

    Source: McNemar 1947, Psychometrika 12:153, in its exact form, the binomial test.
    """
    from scipy.stats import binomtest  # type: ignore[attr-defined]  # SciPy has no types for it

    rights = [call_positive(*model) == (labels == 1) for model in (first, second)]
    only_first, only_second = int((rights[0] & ~rights[1]).sum()), int((rights[1] & ~rights[0]).sum())
    p = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    return Pairing(only_first=only_first, only_second=only_second, p=float(p))


def _draw(labels: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    """Yield indices (NUM_AT_ONCE, M) of resampled images, the same for the same number of labels."""
    generator = np.random.default_rng(0)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    for _ in range(NUM_RESAMPLES // NUM_AT_ONCE):
        yield np.hstack([generator.choice(own, size=(NUM_AT_ONCE, len(own))) for own in classes])


def _measure_calibration(labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> float:
    """Return the mean distance between probability and share of positives over the bins, weighted by images."""
    bins = np.minimum((probabilities * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=probabilities.astype(np.float64) - labels, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _take(model: Predictions, indices: Tensor) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(model[0])[indices], torch.from_numpy(call_positive(*model)).int()[indices]


def _measure(truth: Tensor, probabilities: Tensor, called: Tensor) -> Mapping[str, NDArray[np.float64]]:
    """Score each row of (R, M) tensors."""
    from torchmetrics.functional import classification as scores

    rows: dict[str, Tensor] = {}
    for name, measure in (
        ("precision", scores.binary_precision),
        ("recall", scores.binary_recall),
        ("f1", scores.binary_f1_score),
    ):
        rows[name] = measure(called, truth, multidim_average="samplewise", validate_args=False)
        rows[f"{name}_fake"] = measure(1 - called, 1 - truth, multidim_average="samplewise", validate_args=False)
    rows["accuracy"] = scores.binary_accuracy(called, truth, multidim_average="samplewise", validate_args=False)
    rows["brier"] = (probabilities - truth).double().square().mean(dim=1)
    for name, curve in (("auroc", scores.binary_auroc), ("average_precision", scores.binary_average_precision)):
        rows[name] = torch.stack([curve(*pair, validate_args=False) for pair in zip(probabilities, truth, strict=True)])
    return {name: values.double().reshape(len(truth)).numpy() for name, values in rows.items()}

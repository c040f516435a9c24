"""The bootstrap: metrics of resampled test images, and their intervals."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from search.evaluation.statistics import Predictions, call_positive

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Width of an interval below which figures differ by the rounding of their sums only."""
NUM_AT_ONCE = 50
"""Number of resamples in memory at a time: arrays of 8 MB for CIFAKE's 20,000 test images."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The 95 % interval of a figure over the choice of test images."""

    low: float
    high: float


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
        times = _count(drawn, len(labels))
        found = [_measure(labels, times, *model) for model in models]
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
        times = _count(drawn, len(labels))
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
    """Return the percentile interval of resampled figures (R,); NaN if all are equal, but for rounding.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(distribution, [tail, 1.0 - tail])
    if high - low < ROUNDING:  # for example of a model without errors on these images
        low = high = np.nan
    return Interval(low=float(low), high=float(high))


def _draw(labels: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    """Yield indices (NUM_AT_ONCE, M) of resampled images, the same for the same number of labels."""
    generator = np.random.default_rng(0)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    for _ in range(NUM_RESAMPLES // NUM_AT_ONCE):
        yield np.hstack([generator.choice(own, size=(NUM_AT_ONCE, len(own))) for own in classes])


def _count(drawn: NDArray[np.int64], num_images: int) -> NDArray[np.float64]:
    """Return how often each image is drawn, (R, M)."""
    return np.stack([np.bincount(row, minlength=num_images) for row in drawn]).astype(np.float64)


def _measure(
    labels: NDArray[np.uint8], times: NDArray[np.float64], probabilities: NDArray[np.float32], threshold: float
) -> dict[str, NDArray[np.float64]]:
    """Score each row of (R, M), in which an image counts as often as it is drawn."""
    called, true = call_positive(probabilities, threshold), labels == 1
    tp, fn = times @ (called & true), times @ (~called & true)
    fp, tn = times @ (called & ~true), times @ ~(called | true)
    errors = np.square(probabilities.astype(np.float64) - labels)
    return {
        "accuracy": (tp + tn) / len(labels),
        "precision": _divide(tp, tp + fp),
        "recall": _divide(tp, tp + fn),
        "f1": _divide(2 * tp, 2 * tp + fp + fn),
        "precision_fake": _divide(tn, tn + fn),
        "recall_fake": _divide(tn, tn + fp),
        "f1_fake": _divide(2 * tn, 2 * tn + fn + fp),
        "brier": times @ errors / len(labels),
        **_measure_ranking(labels, times, probabilities),
    }


def _measure_ranking(
    labels: NDArray[np.uint8], times: NDArray[np.float64], probabilities: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of the order of the images; images of equal probability share a place."""
    order = np.argsort(-probabilities, kind="stable")
    last = np.append(np.diff(probabilities[order]) != 0, True)  # whether an image is the last one of its place
    images = np.cumsum(times[:, order], axis=1)[:, last]  # (R, places), down to each place
    positives = np.cumsum(times[:, order] * labels[order], axis=1)[:, last]
    negatives = images - positives
    own = np.diff(positives, axis=1, prepend=0.0)  # positives at each place
    before = negatives - np.diff(negatives, axis=1, prepend=0.0) / 2  # negatives; half of those at the same place
    num_positives, num_negatives = positives[:, -1], negatives[:, -1]
    return {
        "auroc": 1.0 - (own * before).sum(axis=1) / (num_positives * num_negatives),
        "average_precision": (own * _divide(positives, images)).sum(axis=1) / num_positives,
    }


def _divide(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide by whole numbers; 0 / 0 is 0."""
    return numerators / np.maximum(denominators, 1.0)

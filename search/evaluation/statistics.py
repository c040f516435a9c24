"""Statistics of predictions: scores, the choice of a threshold, the test of a difference.

scikit-learn and scipy are imported where they are used, so that no search waits two seconds for them.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.metrics import cross_entropy, to_probabilities

NUM_BINS = 15
"""Bins of equal width of the calibration error. Source: Guo et al. 2017 (arXiv:1706.04599), section 4."""
Predictions = tuple[NDArray[np.float32], float]
"""Probabilities of label 1 (M,) and the threshold above which an image is called positive."""


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


def compare_pair(labels: NDArray[np.uint8], first: Predictions, second: Predictions) -> Pairing:
    """Test whether two models are equally accurate, by the images that only one of them classifies correctly.

    Source: McNemar 1947, Psychometrika 12:153, in its exact form, the binomial test.
    """
    from scipy.stats import binomtest  # type: ignore[attr-defined]  # SciPy has no types for it

    rights = [call_positive(*model) == (labels == 1) for model in (first, second)]
    only_first, only_second = int((rights[0] & ~rights[1]).sum()), int((rights[1] & ~rights[0]).sum())
    p = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    return Pairing(only_first=only_first, only_second=only_second, p=float(p))


def _measure_calibration(labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> float:
    """Return the mean distance between probability and share of positives over the bins, weighted by images."""
    bins = np.minimum((probabilities * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=probabilities.astype(np.float64) - labels, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(labels))

"""Metrics of binary classification from logits; label 1 is the positive class.

Undefined metrics are 0.0, such as the precision without positive predictions, or the AUROC of one class.
"""

import torch
from torch import Tensor
from torch.nn import functional


def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute the loss, the areas of `auroc` and `average_precision`, and the metrics of `score_confusion`.

    Args:
        logits: (N,) float.
        labels: (N,) of 0 and 1, any type, on the same device.
    """
    return {
        "loss": cross_entropy(logits, labels),
        **score_confusion(*count_confusion(logits, labels)),
        "auroc": auroc(logits, labels),
        "average_precision": average_precision(logits, labels),
    }


def to_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the probabilities of label 1 (N,) float32 of logits (N,), computed in float64 and rounded once.

    A temperature above 1 moves them towards 0.5. Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2.
    Validation, test, report and prediction call an image positive if this float32 is above the threshold.
    """
    return torch.sigmoid(logits.double() / temperature).float()


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy of logits (N,) and labels (N,), without rounding a probability to 0 or 1."""
    return functional.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()


def count_confusion(logits: Tensor, labels: Tensor) -> list[int]:
    """Count the images (N,) that are true and false negatives and positives, as `score_confusion` takes them.

    An image is called positive if its probability is above 0.5.
    """
    cells = 2 * labels.long() + (to_probabilities(logits) > 0.5).long()
    counts: list[int] = torch.bincount(cells, minlength=4).tolist()
    return counts


def score_confusion(tn: int, fp: int, fn: int, tp: int) -> dict[str, float]:
    """Compute accuracy, precision, recall, F1 and the rates of false negatives and positives from counts of images.

    Args:
        tn: Negative images that are called negative.
        fp: Negative images that are called positive.
        fn: Positive images that are called negative.
        tp: Positive images that are called positive.
    """
    return {
        "accuracy": _divide(tp + tn, tn + fp + fn + tp),
        "precision": _divide(tp, tp + fp),
        "recall": _divide(tp, tp + fn),
        "f1": _divide(2 * tp, 2 * tp + fp + fn),
        "false_negative_rate": _divide(fn, tp + fn),
        "false_positive_rate": _divide(fp, tn + fp),
    }


def auroc(logits: Tensor, labels: Tensor) -> float:
    """Compute the area under the ROC curve: how often a positive image has a larger logit than a negative; ties half.

    Args:
        logits: (N,) float.
        labels: (N,) of 0 and 1.

    Source: Mann and Whitney 1947 (U from rank sums); Hanley and McNeil 1982, Radiology 143:29 (U is the area).
    """
    _, group, sizes = torch.unique(logits, return_inverse=True, return_counts=True)
    mean_ranks = sizes.cumsum(0) - (sizes - 1) / 2
    positive = labels.bool()
    num_real = int(positive.sum())
    num_fake = len(labels) - num_real
    rank_sum = mean_ranks.double()[group[positive]].sum().item()
    return _divide(rank_sum - num_real * (num_real + 1) / 2, num_real * num_fake)


def average_precision(logits: Tensor, labels: Tensor) -> float:
    """Compute the area under the precision-recall curve as a sum over its steps; images of equal logits are one step.

    Args:
        logits: (N,) float.
        labels: (N,) of 0 and 1.

    Source: scikit-learn's average_precision_score: the sum of (R_n - R_n-1) P_n, without interpolation.
    """
    _, group, sizes = torch.unique(-logits, return_inverse=True, return_counts=True)
    found = torch.zeros(len(sizes), dtype=torch.float64, device=logits.device)
    found.index_add_(0, group, labels.double())
    precisions = found.cumsum(0) / sizes.cumsum(0)
    return _divide((found * precisions).sum().item(), found.sum().item())


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0

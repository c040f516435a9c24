"""Published results on CIFAKE's test split, as their authors report them; REAL is the positive class."""

import dataclasses
from typing import Literal

from trainables.metrics import Confusion

Protocol = Literal["sealed", "peak on test", "not stated"]
"""How epoch and configuration were chosen: without the test split, by its best epoch there, or unknown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """One published result."""

    model: str
    """Architecture and authors."""
    protocol: Protocol
    metrics: dict[str, float]
    """The published ones of accuracy, precision, recall, f1 and auroc, in [0, 1]."""
    parameters: int | None
    """Trainable parameters, if the description allows to count them."""
    confusion: Confusion | None
    """Counts on the 20,000 test images."""


PUBLISHED = (
    PublishedModel(
        model="CNN (paper)",
        protocol="peak on test",
        metrics={"accuracy": 0.9485, "precision": 0.9434, "recall": 0.9542, "f1": 0.9488},
        parameters=141_345,
        confusion=Confusion(tn=9428, fp=572, fn=458, tp=9542),
    ),
    PublishedModel(
        model="ResNet-50 (paper)",
        protocol="peak on test",
        metrics={"accuracy": 0.9599, "precision": 0.9885, "recall": 0.9306, "f1": 0.9587},
        parameters=23_510_081,
        confusion=Confusion(tn=9892, fp=108, fn=694, tp=9306),
    ),
    PublishedModel(
        model="CNN (Bird & Lotfi)",
        protocol="not stated",
        metrics={"accuracy": 0.9298},
        parameters=None,
        confusion=None,
    ),
    PublishedModel(
        model="DenseNet (Wang)",
        protocol="not stated",
        metrics={"accuracy": 0.9774},
        parameters=None,
        confusion=None,
    ),
)
"""The paper's two were taken at the epoch that was best on the test split; the abstracts of the others do not say.

Source: Eboreime et al., AI-Generated Synthetic Images Differentiation: Table 1 and the confusion matrices, Figures 6
and 7 (of Figure 7, the only counts of 10,000 + 10,000 images that round to Table 1); the accuracies follow from them.
Bird and Lotfi 2023, CIFAKE (arXiv:2303.14126), abstract. Wang, Hao and Cong 2024, Harnessing Machine Learning for
Discerning AI-Generated Synthetic Images (arXiv:2401.07358), abstract.
"""

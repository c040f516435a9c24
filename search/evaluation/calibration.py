"""The temperature of a model, and which of its answers reach a confidence."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.metrics import cross_entropy

TEMPERATURES = (0.1, 10.0)
"""Smallest and largest temperature of a fit. Without a bound, a validation part without mistakes would give 0."""


def fit_temperature(labels: NDArray[np.uint8], logits: NDArray[np.float32]) -> float:
    """Return the temperature with the lowest log loss of logits (M,), within TEMPERATURES; 1.0 if none is better.

    Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2.
    """
    from scipy.optimize import minimize_scalar  # imported here, because no search needs it

    raw, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels)

    def measure(temperature: float) -> float:
        loss = cross_entropy(raw / temperature, truth)
        return loss if math.isfinite(loss) else math.inf

    bounds = [math.log(end) for end in TEMPERATURES]
    found = minimize_scalar(lambda power: measure(math.exp(power)), bounds=bounds, method="bounded").x
    return min((1.0, *TEMPERATURES, math.exp(found)), key=measure)  # the search does not reach its bounds


def is_sure(probabilities: NDArray[np.float32], confidence: float) -> NDArray[np.bool_]:
    """Return for which images the probability (M,) of label 1 or that of label 0 reaches a confidence, as float32."""
    exact = probabilities.astype(np.float64)
    return np.maximum(exact, 1.0 - exact) >= np.float64(np.float32(confidence))

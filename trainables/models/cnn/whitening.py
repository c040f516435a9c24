"""A first layer of fixed filters that decorrelate the pixels of 2x2 patches.

Source: Jordan 2024, 94% on CIFAR-10 in 3.29 seconds on a single GPU, section 3.1 (arXiv:2404.00498).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 2
NUM_PIXELS = 1000 * 32**2
"""Pixels whose patches are in memory at a time, in float64: about 0.3 GB with the copies."""
NUM_FILTERS = 2 * 3 * SIDE**2
"""Number of filters: each eigenvector of the patches' covariance, and its negative, which ReLU would remove."""
SMALLEST = 5e-4
"""Added to each variance, so that noise is not scaled up. Source: as above, listing 4."""


def build_whitening() -> nn.Conv2d:
    """Build the layer: images (N, 3, size, size) to maps (N, 24, size + 1, size + 1); only its bias learns."""
    layer = nn.Conv2d(3, NUM_FILTERS, SIDE, padding=SIDE // 2)
    layer.weight.requires_grad_(False)
    layer.bias = nn.Parameter(torch.zeros(NUM_FILTERS))
    return layer


@torch.no_grad()
def fit_whitening(model: nn.Module, images: Tensor) -> None:
    """Set the filters of a model's first layer from images (N, 3, size, size) in [0, 1]."""
    variances, directions = torch.linalg.eigh(_compute_covariance(images))
    filters = (directions / (variances + SMALLEST).sqrt()).T.view(-1, 3, SIDE, SIDE)
    layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    layer.weight.copy_(torch.cat([filters, -filters]))


def _compute_covariance(images: Tensor) -> Tensor:
    """Compute the covariance (12, 12) of the values of all patches; memory does not grow with the images."""
    chunks = images.split(max(1, NUM_PIXELS // images.shape[2] ** 2))
    if len(chunks) == 1:
        return torch.cov(_cut_patches(images).T)
    num, sums, products = 0, torch.zeros(()), torch.zeros(())
    for patches in map(_cut_patches, chunks):
        num, sums, products = num + len(patches), sums + patches.sum(0), products + patches.T @ patches
    return (products - torch.outer(sums, sums) / num) / (num - 1)


def _cut_patches(images: Tensor) -> Tensor:
    """Return the patches of images (N, 3, size, size), each as a row of 12 values in float64."""
    return functional.unfold(images.double(), SIDE).transpose(1, 2).flatten(0, 1)

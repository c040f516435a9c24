"""A trained model with its pre- and postprocessing: stored images in, probabilities out."""

import torch
from torch import Tensor, nn

from trainables.augment import to_float


class Classifier(nn.Module):
    """Maps images (N, size, size, 3) uint8 to probabilities of label 1 (N,) float32, for use outside this project."""

    def __init__(self, model: nn.Module, *, flip_average: bool, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.flip_average = flip_average
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Compute the probabilities; with `flip_average`, of the mean logits of each image and its mirror image."""
        images = to_float(images)
        logits = self.model(images)
        if self.flip_average:
            logits = (logits + self.model(images.flip(3))) / 2
        return torch.sigmoid(logits if self.temperature == 1.0 else logits / self.temperature)

"""The configuration of ResNet-50."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from trainables.errors import check_batch, check_field


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResNet50Config:
    """torchvision's ResNet-50 with a single-logit head."""

    stem: Literal["imagenet", "cifar", "half"] = "imagenet"
    """First layers: 7x7, stride 2, with max-pooling (imagenet); 3x3, stride 1, without pooling (cifar; He et al. 2016,
    section 4.2); or 3x3, stride 2, without pooling (half)."""
    trainable_stages: int = 5
    """Number of stages that train, counted from the head, in [0, 5]: layer4, layer3, layer2, layer1, stem. Stages with
    random initial weights always train: all stages if `weights` is none, and a 3x3 stem."""
    hidden_layers: int = 0
    """Hidden dense layers in the head, in [0, 3]."""
    hidden_units: int = 256
    """Width of each hidden dense layer, at least 1."""
    dropout: float = 0.0
    """Probability of dropping an input of a layer of the head, in [0, 1)."""
    input_size: Literal[32, 64, 128] = 32
    """Side in pixels to which smaller images are scaled up on the device."""
    weights: str = "none"
    """Initial weights: none (random), imagenet (torchvision's IMAGENET1K_V2), or the path of a state dict."""

    def __post_init__(self) -> None:
        check_field(self, "trainable_stages", 0 <= self.trainable_stages <= 5, "0 to 5")
        check_field(self, "hidden_layers", 0 <= self.hidden_layers <= 3, "0 to 3")
        check_field(self, "hidden_units", self.hidden_units >= 1, "at least 1")
        check_field(self, "dropout", 0.0 <= self.dropout < 1.0, "0 up to, not including, 1")
        check_field(self, "input_size", self.input_size in (32, 64, 128), "32, 64 or 128")

    @staticmethod
    def without_effect(size: int) -> Mapping[tuple[str, int | str], tuple[str, ...]]:  # noqa: ARG004 the contract's name
        """Return (parameter, value) -> the parameters that have no effect then."""
        return {("hidden_layers", 0): ("hidden_units",), ("weights", "none"): ("trainable_stages",)}

    def check(self, *, size: int, batch_size: int) -> None:
        """Check that a batch can train.

        The last maps have 1/32 of the images' side with the stem imagenet, 1/16 with half, and 1/8 with cifar.

        Raises:
            InputError: If the batch is too small.
        """
        is_normalised = self.weights == "none" or self.trainable_stages >= 1
        is_pixel = self.stem == "imagenet" and max(size, self.input_size) <= 32
        check_batch(batch_size, is_single=is_normalised and is_pixel)

    def build(self, *, size: int) -> Any:
        """Build the network, with random weights, for images of size x size pixels."""
        from trainables.models.resnet50.net import ResNet50  # imports torchvision, which takes two seconds

        return ResNet50(self, size)

    def load_weights(self, model: Any) -> None:
        """Load the weights that training starts from.

        Raises:
            InputError: If they cannot be fetched, found or loaded.
        """
        if self.weights != "none":
            from trainables.models.resnet50.weights import load_initial

            load_initial(model, self)

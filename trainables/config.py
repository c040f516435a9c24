"""What one training is: model, optimizer, schedule, augmentation, length and seed.

The defaults are the paper's custom CNN and its training (see configs/paper.yaml), so a configuration
states only what differs from the paper.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, cast

from trainables.errors import InputError, check_field
from trainables.models.cnn.config import CnnConfig
from trainables.models.resnet50.config import ResNet50Config

Value = bool | int | float | str
"""What one parameter can be set to."""

IMAGE_SIZE = 32
"""Height and width of every stored image, in pixels."""


LARGEST = 1e38
"""Bound of what an optimizer multiplies with: float32 ends at 3.4e38."""


ModelConfig = CnnConfig | ResNet50Config

MODEL_CONFIGS: dict[str, type[CnnConfig] | type[ResNet50Config]] = {
    config.architecture: config for config in (CnnConfig, ResNet50Config)
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training, complete: the same config and data give the same weights."""

    model: ModelConfig
    """Architecture and its shape."""
    epochs: int
    """Passes over the training images that the schedule spans, at least 1."""
    seed: int = 0
    """Root of every random draw, at least 0."""
    batch_size: int = 128
    """Images in a step, at least 1, or the model's `min_batch_size`; the last partial batch of an epoch is dropped."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """SGD has Nesterov momentum 0.9."""
    learning_rate: float = 1e-3
    """Peak learning rate, above 0, finite."""
    weight_decay: float = 0.0
    """Coefficient of the optimizer's own weight decay, at least 0, finite."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """Learning rate over the steps; constant and cosine set in after the warm-up, one_cycle shapes it too."""
    warmup_frac: float = 0.0
    """Share of all steps that warm up, in [0, 1)."""
    flip: bool = False
    """Mirror each training image left to right with probability one half."""
    crop_padding: int = 0
    """Pixels of reflected border from which a random crop is taken, in [0, 16]; 0 is no cropping."""
    cutout: int = 0
    """Side in pixels of a grey square laid over each training image, in [0, 32]; 0 is no square."""
    label_smoothing: float = 0.0
    """Share of each label that is drawn to one half, in [0, 1)."""
    ema_decay: float = 0.0
    """Decay per step of the averaged weights that are validated and kept, in [0, 1); 0 is no averaging."""
    flip_average: bool = False
    """Score the mean of an image's and its mirror image's logits, in validation and test alike."""
    deterministic: bool = False
    """Let CUDA use only algorithms that repeat to the bit; a CPU repeats without."""

    def __post_init__(self) -> None:
        check_field(self, "epochs", self.epochs >= 1, "at least 1")
        check_field(self, "seed", self.seed >= 0, "at least 0")
        check_field(self, "batch_size", self.batch_size >= 1, "at least 1")
        smallest = self.model.min_batch_size
        what = f"at least {smallest}, for batch normalisation at 1x1 maps cannot train on single images"
        check_field(self, "batch_size", self.batch_size >= smallest, what)
        check_field(self, "learning_rate", 0.0 < self.learning_rate <= LARGEST, f"above 0, at most {LARGEST:g}")
        check_field(self, "weight_decay", 0.0 <= self.weight_decay <= LARGEST, f"0 to {LARGEST:g}")
        check_field(self, "warmup_frac", 0.0 <= self.warmup_frac < 1.0, "0 up to, not including, 1")
        check_field(self, "crop_padding", 0 <= self.crop_padding <= IMAGE_SIZE // 2, "0 to 16")
        check_field(self, "cutout", 0 <= self.cutout <= IMAGE_SIZE, "0 to 32")
        check_field(self, "label_smoothing", 0.0 <= self.label_smoothing < 1.0, "0 up to, not including, 1")
        check_field(self, "ema_decay", 0.0 <= self.ema_decay < 1.0, "0 up to, not including, 1")


RUN_FIELDS = ("model", "epochs", "seed")
"""Fields of TrainConfig that a search sets by itself; all others may be searched."""


def list_defaults(architecture: str) -> dict[str, Value]:
    """Return every parameter that one architecture's training has, with its default.

    Raises:
        InputError: If no architecture has this name.
    """
    if architecture not in MODEL_CONFIGS:
        raise InputError(f"unknown architecture {architecture!r}; known: {', '.join(MODEL_CONFIGS)}")
    fields = (*dataclasses.fields(MODEL_CONFIGS[architecture]), *dataclasses.fields(TrainConfig))
    return {field.name: cast(Value, field.default) for field in fields if field.name not in RUN_FIELDS}


def build_train_config(architecture: str, params: Mapping[str, Value], *, epochs: int, seed: int) -> TrainConfig:
    """Build a training from flat parameters; what is left out keeps its default.

    Args:
        architecture: A key of MODEL_CONFIGS.
        params: Values by the names that `list_defaults` gives.
        epochs: Length of the schedule.
        seed: Root of every random draw.

    Raises:
        InputError: If a name is unknown or a value lies outside its range.
    """
    known = list_defaults(architecture)
    if unknown := sorted(set(params) - set(known)):
        raise InputError(f"{architecture} has no parameter {', '.join(unknown)}; known: {', '.join(known)}")
    model_class = MODEL_CONFIGS[architecture]
    model_names = {field.name for field in dataclasses.fields(model_class)}
    model: dict[str, Any] = {name: value for name, value in params.items() if name in model_names}
    training: dict[str, Any] = {name: value for name, value in params.items() if name not in model_names}
    return TrainConfig(model=model_class(**model), epochs=epochs, seed=seed, **training)


def list_values(config: TrainConfig) -> dict[str, Value]:
    """Return the flat parameters of a training: what `build_train_config` takes."""
    merged = dataclasses.asdict(config.model) | dataclasses.asdict(config)
    return {name: merged[name] for name in list_defaults(config.model.architecture)}

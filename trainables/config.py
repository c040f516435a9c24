"""The configuration of one training: model, optimizer, schedule, augmentation, length and seed.

The defaults are the paper's custom CNN and its training (configs/paper.yaml), so a configuration states only the
differences.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, cast

from trainables.errors import InputError, check_field
from trainables.models.cnn.config import CnnConfig
from trainables.models.resnet50.config import ResNet50Config
from trainables.names import IMPORTED, is_own
from trainables.parameters import list_parameters

Value = bool | int | float | str
"""Value of a parameter."""

IMAGE_SIZE = 32
"""Height and width of every stored image, in pixels."""


LARGEST = 1e38
"""Bound of an optimizer's factors; the largest float32 is 3.4e38."""


ModelConfig = CnnConfig | ResNet50Config

MODEL_CONFIGS: dict[str, type[CnnConfig] | type[ResNet50Config]] = {
    config.architecture: config for config in (CnnConfig, ResNet50Config)
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training, complete: the same configuration and data give the same weights."""

    model: ModelConfig
    """Configuration of the network."""
    epochs: int
    """Passes over the training images, at least 1; the learning-rate schedule spans them."""
    seed: int = 0
    """Root of every random draw, at least 0."""
    batch_size: int = 128
    """Images in a step, at least 1; 2 if the model normalises 1x1 maps. An epoch drops its last partial batch."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimizer; sgd has Nesterov momentum 0.9."""
    learning_rate: float = 1e-3
    """Peak learning rate, above 0, at most 1e38."""
    weight_decay: float = 0.0
    """Coefficient of the optimizer's weight decay, in [0, 1e38]."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """Learning rate over the steps. constant and cosine start after a linear warm-up, one_cycle contains its own."""
    warmup_frac: float = 0.0
    """Fraction of all steps that warm up, in [0, 1)."""
    flip: bool = False
    """Whether each training image is mirrored left to right with probability one half."""
    crop_padding: int = 0
    """Pixels of reflected border around a training image before a random crop, in [0, 16]; 0 is no cropping."""
    cutout: int = 0
    """Side in pixels of a grey square that covers a part of each training image, in [0, 32]; 0 is no square."""
    label_smoothing: float = 0.0
    """Fraction by which each label moves towards one half, in [0, 1)."""
    ema_decay: float = 0.0
    """Decay per step of the average of the weights, which is then validated and saved, in [0, 1); 0 is no averaging."""
    flip_average: bool = False
    """Whether validation and test use the mean of the logits of an image and of its mirror image."""
    deterministic: bool = False
    """Whether CUDA uses only algorithms that are reproducible to the bit; a CPU always does."""

    def __post_init__(self) -> None:
        check_field(self, "epochs", self.epochs >= 1, "at least 1")
        check_field(self, "seed", self.seed >= 0, "at least 0")
        check_field(self, "batch_size", self.batch_size >= 1, "at least 1")
        smallest = self.model.min_batch_size
        what = f"at least {smallest}, because batch normalisation of 1x1 maps cannot train on single images"
        check_field(self, "batch_size", self.batch_size >= smallest, what)
        check_field(self, "learning_rate", 0.0 < self.learning_rate <= LARGEST, f"above 0, at most {LARGEST:g}")
        check_field(self, "weight_decay", 0.0 <= self.weight_decay <= LARGEST, f"0 to {LARGEST:g}")
        check_field(self, "warmup_frac", 0.0 <= self.warmup_frac < 1.0, "0 up to, not including, 1")
        check_field(self, "crop_padding", 0 <= self.crop_padding <= IMAGE_SIZE // 2, "0 to 16")
        check_field(self, "cutout", 0 <= self.cutout <= IMAGE_SIZE, "0 to 32")
        check_field(self, "label_smoothing", 0.0 <= self.label_smoothing < 1.0, "0 up to, not including, 1")
        check_field(self, "ema_decay", 0.0 <= self.ema_decay < 1.0, "0 up to, not including, 1")


WITHOUT_EFFECT: dict[str, dict[tuple[str, Value], tuple[str, ...]]] = {
    "cnn": {("num_blocks", 1): ("growth",), ("num_blocks", 5): ("head",), ("dense_layers", 0): ("dense_units",)},
    "resnet50": {("hidden_layers", 0): ("hidden_units",), ("weights", "none"): ("trainable_stages",)},
}
"""By architecture, and by a parameter with its value: the parameters that have no effect then."""
RUN_FIELDS = ("model", "epochs", "seed")
"""Fields of TrainConfig that a search sets; all others may be searched."""


def list_defaults(architecture: str) -> dict[str, Value]:
    """Return all parameters of an architecture's training with their defaults.

    Raises:
        InputError: If no architecture has this name.
    """
    if is_own(architecture):  # of a training function that was not imported nothing is known
        taker = IMPORTED.get(architecture)
        return {name: each.default for name, each in list_parameters(taker).items()} if taker else {}
    if architecture not in MODEL_CONFIGS:
        raise InputError(f"unknown architecture {architecture!r}; known: {', '.join(MODEL_CONFIGS)}")
    fields = (*dataclasses.fields(MODEL_CONFIGS[architecture]), *dataclasses.fields(TrainConfig))
    return {field.name: cast(Value, field.default) for field in fields if field.name not in RUN_FIELDS}


def list_without_effect(architecture: str, params: Mapping[str, Value]) -> set[str]:
    """Return the names of the parameters that have no effect, given at least those that WITHOUT_EFFECT names first."""
    rules = WITHOUT_EFFECT.get(architecture, {}).items()
    return {name for (other, value), names in rules if params[other] == value for name in names}


def complete_params(architecture: str, params: Mapping[str, Value]) -> dict[str, Value]:
    """Return flat parameters with all defaults, those without effect at their default: equal ones train alike."""
    defaults = list_defaults(architecture)
    known = defaults | dict(params)
    return known | {name: defaults[name] for name in list_without_effect(architecture, known)}


def build_train_config(architecture: str, params: Mapping[str, Value], *, epochs: int, seed: int) -> TrainConfig:
    """Build a training from flat parameters; missing ones keep their defaults.

    Args:
        architecture: A key of MODEL_CONFIGS.
        params: Values by the names of `list_defaults`.
        epochs: Length of the schedule.
        seed: Root of every random draw.

    Raises:
        InputError: If a name is unknown or a value is outside its range.
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
    """Return the flat parameters of a training, as `build_train_config` takes them."""
    merged = dataclasses.asdict(config.model) | dataclasses.asdict(config)
    return {name: merged[name] for name in list_defaults(config.model.architecture)}

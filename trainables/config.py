"""What one training is: model, optimizer, schedule, augmentation, length and seed.

The defaults are the paper's custom CNN and its training (see configs/paper.yaml), so a configuration
states only what differs from the paper.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from trainables.errors import InputError

Value = bool | int | float | str
"""What one parameter can be set to."""

IMAGE_SIZE = 32
"""Height and width of every stored image, in pixels."""


LARGEST = 1e38
"""Bound of what an optimizer multiplies with: float32 ends at 3.4e38."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CnnConfig:
    """The paper's CNN, generalised: blocks of convolutions, each block ending in 2x2 max-pooling."""

    architecture: ClassVar[str] = "cnn"
    min_batch_size: ClassVar[int] = 1
    """Smallest batch that trains: maps are at least 2x2 where they are normalised, in front of the last pooling."""

    num_blocks: int = 2
    """Blocks, in [1, 5]; each halves height and width, so five leave 1x1 of 32x32."""
    convs_per_block: int = 1
    """Convolutions in a block, in [1, 2]."""
    filters: int = 32
    """Output channels of the first block, at least 1."""
    growth: float = 1.0
    """Factor on the channels from one block to the next, in [1, 4]."""
    kernel_size: int = 3
    """Side of the convolutions' kernels, odd, in [1, 7]; padding keeps height and width."""
    batch_norm: bool = False
    """Batch normalisation between convolution and ReLU."""
    head: Literal["flatten", "gap"] = "flatten"
    """What joins the maps: all of them in a row, or their global average."""
    dense_layers: int = 1
    """Hidden fully connected layers behind the join, in [0, 3]."""
    dense_units: int = 64
    """Width of each hidden layer, at least 1."""
    dropout: float = 0.0
    """Probability of dropping a hidden activation, in [0, 1)."""

    def __post_init__(self) -> None:
        _require(self, "num_blocks", 1 <= self.num_blocks <= 5, "1 to 5")
        _require(self, "convs_per_block", 1 <= self.convs_per_block <= 2, "1 or 2")
        _require(self, "filters", self.filters >= 1, "at least 1")
        _require(self, "growth", 1.0 <= self.growth <= 4.0, "1 to 4")
        _require(self, "kernel_size", self.kernel_size in (1, 3, 5, 7), "1, 3, 5 or 7")
        _require(self, "dense_layers", 0 <= self.dense_layers <= 3, "0 to 3")
        _require(self, "dense_units", self.dense_units >= 1, "at least 1")
        _require(self, "dropout", 0.0 <= self.dropout < 1.0, "0 up to, not including, 1")
        widest = self.channels[-1]
        _require(self, "filters", widest <= 2048, f"such that the last block has at most 2048 channels, not {widest}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of each block."""
        return tuple(round(self.filters * self.growth**block) for block in range(self.num_blocks))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResNet50Config:
    """torchvision's ResNet-50 with a single-logit head."""

    architecture: ClassVar[str] = "resnet50"

    stem: Literal["imagenet", "cifar"] = "imagenet"
    """7x7 stride 2 with max-pooling, or 3x3 stride 1 without (He et al. 2016, section 4.2)."""
    trainable_stages: int = 5
    """Stages that learn, counted from the head, in [0, 5]: layer4, layer3, layer2, layer1, stem. What starts from
    random weights learns all the same: every stage without `weights`, and a stem of another shape than theirs."""
    hidden_layers: int = 0
    """Hidden fully connected layers in the head, in [0, 3]."""
    hidden_units: int = 256
    """Width of each hidden layer, at least 1."""
    dropout: float = 0.0
    """Probability of dropping an activation in front of each layer of the head, in [0, 1)."""
    input_size: Literal[32, 64, 128] = 32
    """Side in pixels to which images are up-sampled on the device."""
    weights: str = "none"
    """Initial weights: none, imagenet (torchvision's IMAGENET1K_V2), or the path of a state dict."""

    def __post_init__(self) -> None:
        _require(self, "trainable_stages", 0 <= self.trainable_stages <= 5, "0 to 5")
        _require(self, "hidden_layers", 0 <= self.hidden_layers <= 3, "0 to 3")
        _require(self, "hidden_units", self.hidden_units >= 1, "at least 1")
        _require(self, "dropout", 0.0 <= self.dropout < 1.0, "0 up to, not including, 1")
        _require(self, "input_size", self.input_size in (32, 64, 128), "32, 64 or 128")

    @property
    def min_batch_size(self) -> int:
        """Smallest batch that trains: normalising needs two values of a channel, and a map of 1x1 has one an image.

        The maps of the last stage have 1/32 of the images' side with the ImageNet stem, 1/8 with the other one.
        """
        is_normalised = self.weights == "none" or self.trainable_stages >= 1
        return 2 if is_normalised and self.stem == "imagenet" and self.input_size == 32 else 1


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
        _require(self, "epochs", self.epochs >= 1, "at least 1")
        _require(self, "seed", self.seed >= 0, "at least 0")
        _require(self, "batch_size", self.batch_size >= 1, "at least 1")
        smallest = self.model.min_batch_size
        what = f"at least {smallest}, for batch normalisation at 1x1 maps cannot train on single images"
        _require(self, "batch_size", self.batch_size >= smallest, what)
        _require(self, "learning_rate", 0.0 < self.learning_rate <= LARGEST, f"above 0, at most {LARGEST:g}")
        _require(self, "weight_decay", 0.0 <= self.weight_decay <= LARGEST, f"0 to {LARGEST:g}")
        _require(self, "warmup_frac", 0.0 <= self.warmup_frac < 1.0, "0 up to, not including, 1")
        _require(self, "crop_padding", 0 <= self.crop_padding <= IMAGE_SIZE // 2, "0 to 16")
        _require(self, "cutout", 0 <= self.cutout <= IMAGE_SIZE, "0 to 32")
        _require(self, "label_smoothing", 0.0 <= self.label_smoothing < 1.0, "0 up to, not including, 1")
        _require(self, "ema_decay", 0.0 <= self.ema_decay < 1.0, "0 up to, not including, 1")


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


def _require(config: object, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(f"{name} = {getattr(config, name)!r}: expected {expected}")

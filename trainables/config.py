"""The configuration of one training: model, optimizer, schedule, augmentation, length and seed.

The defaults are the paper's custom CNN and its training (configs/paper.yaml), so a configuration states only the
differences.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from trainables.errors import InputError, check_field
from trainables.models.cnn.config import CnnConfig
from trainables.models.resnet50.config import ResNet50Config
from trainables.names import IMPORTED, is_own, is_unknown
from trainables.parameters import Parameter, list_parameters

Value = bool | int | float | str
"""Value of a parameter."""

IMAGE_SIZE = 32
"""Height and width of CIFAKE's images, in pixels."""


WITHOUT_GRAPH = ", without a CUDA graph: "
"""Text in a record between a device's name and the reason why its steps were not recorded as a CUDA graph."""

OPTIMIZER_NAMES = ("adam", "adamw", "sgd", "muon")
PRECISIONS = ("auto", "float32", "bfloat16")
MAX_FACTOR = 1e38
"""Bound of an optimizer's factors; the largest float32 is 3.4e38."""


class Architecture(Protocol):
    """Configuration of a network: a frozen dataclass, whose fields are parameters of a search.

    It may also have:
        check(*, size, batch_size): Raises InputError if the network cannot train with these values.
        load_weights(model): Loads the weights that training starts from; a trained model is restored without it.
        fit(model, images): Computes fixed weights from training images, once, before the first epoch.
        without_effect(size): Returns (parameter, value) -> the parameters that have no effect then.
    """

    def build(self, *, size: int) -> Any:
        """Build the network, with random weights.

        Args:
            size: Height and width of the images in pixels.

        Returns:
            A module that maps images (N, 3, size, size) in [0, 1] to logits (N,).
        """


ARCHITECTURES: dict[str, Any] = {"cnn": CnnConfig, "resnet50": ResNet50Config}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training, complete: the same configuration and data give the same weights."""

    model: Architecture
    """Configuration of the network."""
    epochs: int
    """Passes over the training images, at least 1; the learning-rate schedule spans them."""
    seed: int = 0
    """Root of every random draw, at least 0."""
    size: int = IMAGE_SIZE
    """Height and width of the images in pixels."""
    batch_size: int = 128
    """Images in a step, at least 1, or 2 if the model normalises 1x1 maps. An epoch drops its last partial batch."""
    optimizer: str = "adam"
    """Optimizer: adam, adamw, sgd (with Nesterov momentum 0.9), muon (AdamW for all but the hidden weight matrices), or
    module:Name of a class of your own that takes (params, lr, weight_decay)."""
    learning_rate: float = 1e-3
    """Peak learning rate, above 0, at most 1e38."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of the hidden weight matrices if the optimizer is muon, above 0, at most 1e38."""
    weight_decay: float = 0.0
    """Coefficient of the optimizer's weight decay, in [0, 1e38]."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """Learning rate over the steps. constant and cosine start after a linear warm-up, one_cycle contains its own."""
    warmup_frac: float = 0.0
    """Fraction of all steps that warm up, in [0, 1)."""
    flip: bool = False
    """Whether each training image is mirrored left to right with probability one half."""
    crop_padding: int = 0
    """Pixels of reflected border around a training image before a random crop, up to half the side; 0: no cropping."""
    cutout: int = 0
    """Side in pixels of a grey square that covers a part of each training image, up to the side; 0: no square."""
    label_smoothing: float = 0.0
    """Fraction by which each label moves towards one half, in [0, 1)."""
    ema_decay: float = 0.0
    """Decay per step of the average of the weights, which is then validated and saved, in [0, 1); 0 is no averaging."""
    flip_average: bool = False
    """Whether validation and test use the mean of the logits of an image and of its mirror image."""
    deterministic: bool = False
    """Whether CUDA uses only algorithms that are reproducible to the bit; a CPU always does."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type in which training multiplies. auto is bfloat16 on CUDA and on a CPU that has instructions for it,
    else float32. Weights, last layer and loss are float32."""

    def __post_init__(self) -> None:
        check_field(self, "epochs", self.epochs >= 1, "at least 1")
        check_field(self, "seed", self.seed >= 0, "at least 0")
        check_field(self, "batch_size", self.batch_size >= 1, "at least 1")
        if check := getattr(self.model, "check", None):
            check(size=self.size, batch_size=self.batch_size)
        is_known = self.optimizer in OPTIMIZER_NAMES or is_own(self.optimizer)
        check_field(self, "optimizer", is_known, f"one of {', '.join(OPTIMIZER_NAMES)}, or module:Name of your own")
        for rate in ("learning_rate", "muon_learning_rate"):
            check_field(self, rate, 0.0 < getattr(self, rate) <= MAX_FACTOR, f"above 0, at most {MAX_FACTOR:g}")
        check_field(self, "weight_decay", 0.0 <= self.weight_decay <= MAX_FACTOR, f"0 to {MAX_FACTOR:g}")
        check_field(self, "warmup_frac", 0.0 <= self.warmup_frac < 1.0, "0 up to, not including, 1")
        check_field(self, "crop_padding", 0 <= self.crop_padding <= self.size // 2, f"0 to {self.size // 2}")
        check_field(self, "cutout", 0 <= self.cutout <= self.size, f"0 to {self.size}")
        check_field(self, "precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        check_field(self, "label_smoothing", 0.0 <= self.label_smoothing < 1.0, "0 up to, not including, 1")
        check_field(self, "ema_decay", 0.0 <= self.ema_decay < 1.0, "0 up to, not including, 1")


RUN_FIELDS = ("model", "epochs", "seed", "size")
"""Fields of TrainConfig that the study sets for all trials; all others may be searched."""


def check_architecture(name: str, kind: Any) -> None:
    """Check a class of the user.

    Raises:
        InputError: If it is no architecture, or its parameters cannot be searched.
    """
    options: Any = getattr(kind, "__dataclass_params__", None)
    if options is None or not options.frozen:
        raise InputError(f"{name} is no frozen dataclass: write @dataclass(frozen=True, kw_only=True) above its class")
    if not callable(getattr(kind, "build", None)):
        raise InputError(f"{name} has no build: give it a method `build(self, *, size: int) -> nn.Module`")
    if twice := sorted(list_parameters(kind).keys() & {field.name for field in dataclasses.fields(TrainConfig)}):
        raise InputError(f"{name} has the parameter {twice[0]}, which every training has: give it another name")


def get_schema(architecture: str) -> dict[str, Parameter]:
    """Return all parameters of an architecture's training: those of the network, then those of the training.

    A training function of the user has only its own parameters. Code that was not imported has no known parameters.

    Raises:
        InputError: If no architecture has this name.
    """
    if is_unknown(architecture):
        return {}
    kind = get_architecture(architecture)
    training = list_parameters(TrainConfig, RUN_FIELDS) if inspect.isclass(kind) else {}
    return {**list_parameters(kind), **training}


def get_architecture(name: str) -> Any:
    """Return the class of an architecture, or the training function of the user.

    Raises:
        InputError: If nothing has this name, or it is code of the user that was not imported.
    """
    known = ARCHITECTURES | IMPORTED
    if is_unknown(name):
        raise InputError(f"{name} is code of its author, which is not imported: name its folder with --code")
    if name not in known:
        raise InputError(f"unknown architecture {name!r}; known: {', '.join(known)}")
    return known[name]


def is_function(architecture: str) -> bool:
    """Return whether a name stands for a training function of the user, which has no network of ours to build."""
    return architecture in IMPORTED and not inspect.isclass(IMPORTED[architecture])


def list_defaults(architecture: str) -> dict[str, Value]:
    """Return all parameters of an architecture's training with their defaults.

    Raises:
        InputError: If no architecture has this name.
    """
    return {name: each.default for name, each in get_schema(architecture).items()}


def list_rules(architecture: str, size: int) -> Mapping[tuple[str, Value], tuple[str, ...]]:
    """Return (parameter, value) -> the parameters that have no effect then."""
    if is_unknown(architecture) or is_function(architecture):
        return {}
    kind = get_architecture(architecture)
    own = kind.without_effect(size) if hasattr(kind, "without_effect") else {}
    return {**own, **{("optimizer", name): ("muon_learning_rate",) for name in OPTIMIZER_NAMES if name != "muon"}}


def list_without_effect(architecture: str, params: Mapping[str, Value], size: int) -> set[str]:
    """Return the names of the parameters that have no effect; `params` needs only those in the keys of `list_rules`."""
    rules = list_rules(architecture, size).items()
    return {name for (other, value), names in rules if params[other] == value for name in names}


def complete_params(architecture: str, params: Mapping[str, Value], size: int = IMAGE_SIZE) -> dict[str, Value]:
    """Return flat parameters with all defaults; those without effect get their default, so equal ones train alike."""
    defaults = list_defaults(architecture)
    known = defaults | dict(params)
    return known | {name: defaults[name] for name in list_without_effect(architecture, known, size)}


def build_train_config(
    architecture: str, params: Mapping[str, Value], *, epochs: int, seed: int, size: int = IMAGE_SIZE
) -> TrainConfig:
    """Build a training from flat parameters; missing ones keep their defaults.

    Args:
        architecture: Its name.
        params: Values by the names of `list_defaults`.
        epochs: Length of the schedule.
        seed: Root of every random draw.
        size: Height and width of the images in pixels.

    Raises:
        InputError: If a name is unknown or a value is outside its range.
    """
    kind = get_architecture(architecture)
    known = get_schema(architecture)
    if unknown := sorted(set(params) - set(known)):
        raise InputError(f"{architecture} has no parameter {', '.join(unknown)}; known: {', '.join(known)}")
    own = list_parameters(kind)
    model: dict[str, Any] = {name: value for name, value in params.items() if name in own}
    training: dict[str, Any] = {name: value for name, value in params.items() if name not in own}
    try:
        return TrainConfig(model=kind(**model), epochs=epochs, seed=seed, size=size, **training)
    except InputError:
        raise
    except Exception as error:
        if not is_own(architecture):
            raise
        raise InputError(f"{architecture} refuses {dict(params)}: {type(error).__name__}: {error}") from error


def list_values(config: TrainConfig) -> dict[str, Value]:
    """Return the flat parameters of a training, as `build_train_config` takes them."""
    network = {name: getattr(config.model, name) for name in list_parameters(type(config.model))}
    return network | {name: getattr(config, name) for name in list_parameters(TrainConfig, RUN_FIELDS)}

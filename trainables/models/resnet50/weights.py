"""The initial weights of ResNet-50: torchvision's for ImageNet, or a file."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights

from trainables.errors import InputError
from trainables.models.resnet50.config import ResNet50Config

IMAGENET = ResNet50_Weights.IMAGENET1K_V2


def locate_imagenet() -> Path:
    """Return the path at which torchvision caches its ImageNet weights of ResNet-50; the file may be missing."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(IMAGENET.url).name


def load_initial(model: nn.Module, config: ResNet50Config) -> None:
    """Load the weights that training starts from; the head and a 3x3 stem keep their random weights.

    Raises:
        InputError: If they cannot be fetched, found or loaded.
    """
    stored = _fetch_imagenet() if config.weights == "imagenet" else _read_state(Path(config.weights).expanduser())
    fresh = ("fc.",) if config.stem == "imagenet" else ("fc.", "conv1.")
    stored = {name: tensor for name, tensor in stored.items() if not name.startswith(fresh)}
    initial = model.state_dict()
    needed = {name: tensor for name, tensor in initial.items() if not name.startswith(fresh)}
    if wrong := sorted({name for name, _ in _list_shapes(stored) ^ _list_shapes(needed)}):
        raise InputError(
            f"weights = {config.weights!r}: {len(wrong)} tensors are missing, unknown or of another shape than in "
            f"ResNet-50, first {wrong[0]}; use `weights: none` or the path of a ResNet-50's state dict"
        )
    model.load_state_dict(initial | stored)


def _list_shapes(state: Mapping[str, Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(tensor.shape)) for name, tensor in state.items()}


def _fetch_imagenet() -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = IMAGENET.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"weights = 'imagenet': {IMAGENET.url} cannot be fetched ({error}); "
            "use `weights: none` or `weights:` with the path of a state dict"
        ) from error
    return state


def _read_state(path: Path) -> Mapping[str, Tensor]:
    cure = "use `weights: none`, `weights: imagenet` or the path of a ResNet-50's state dict"
    if not path.is_file():
        raise InputError(f"weights = '{path}': no such file; {cure}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"weights = '{path}': not a file of tensors that torch.save wrote; {cure}") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"weights = '{path}': not a state dict (tensors by name); {cure}")
    return state

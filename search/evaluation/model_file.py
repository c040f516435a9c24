"""A trained model on disk: LABEL.safetensors, LABEL.json and LABEL.md, and what was predicted with it.

The record (LABEL.json) is taken away first and written last, and holds the checksums of the rest: whatever is killed
in between leaves weights without a record, which nothing takes for a model.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy
import safetensors.torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search.evaluation.model_card import build_card
from trainables.config import TrainConfig, build_train_config
from trainables.durable import make_folder, sync, write_file
from trainables.errors import InputError
from trainables.models import restore_model
from trainables.pixels import RULE

WEIGHTS, PREDICTIONS, RECORD, CARD = ".safetensors", ".predictions.safetensors", ".json", ".md"
"""What the files of a model are called behind its label."""
KINDS = {"weights": WEIGHTS, "predictions": PREDICTIONS}
"""Files with a checksum in the record."""
PREPROCESSING = {
    "size": [32, 32],
    **RULE,
    "range": [0.0, 1.0],
    "positive": "REAL",
}
"""What a model expects of an image, training and prediction the same, and what its probability is of."""

NEEDED = {
    "retraining": {"label", "architecture", "max_epochs", "train_seed"},
    "tested": {"threshold", "metrics"},
    "sha256": {"weights"},
}
"""What a record must say at least, to be one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """All that is known of a trained model; enough to train it again."""

    retraining: dict[str, Any]
    """Fields of search.evaluation.retraining.Retraining: whose configuration, seed, epochs, images."""
    parameters: dict[str, Any]
    """The configuration with every default written out, as `trainables.config.list_values` gives it."""
    tested: dict[str, Any]
    """Fields of search.evaluation.result.TestedModel: metrics, and the probability above which an image is REAL."""
    preprocessing: dict[str, Any]
    """PREPROCESSING, and whether logits are averaged with those of the mirror image."""
    hardware: dict[str, Any]
    """Device, its name, threads, and what the training was granted."""
    code: dict[str, Any]
    """search.provenance.describe_code."""
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of the file of weights, and of the predictions if there are any."""

    @property
    def label(self) -> str:
        """Name of the files."""
        return str(self.retraining["label"])

    def build_config(self) -> TrainConfig:
        """Return the training that made the model."""
        known = self.retraining
        return build_train_config(
            known["architecture"], self.parameters, epochs=known["max_epochs"], seed=known["train_seed"]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model with its weights, ready to predict on the CPU."""

    model: nn.Module
    config: TrainConfig
    record: ModelRecord


def save_model(
    folder: Path,
    record: ModelRecord,
    weights: Mapping[str, Tensor],
    predictions: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write a model, in place of an earlier one of the same label.

    Args:
        folder: Where models lie.
        record: Without checksums.
        weights: The model's state dict.
        predictions: Arrays by name, for `load_predictions`.
    """
    paths = {suffix: folder / (record.label + suffix) for suffix in (WEIGHTS, PREDICTIONS, RECORD, CARD)}
    make_folder(folder)
    paths[RECORD].unlink(missing_ok=True)
    sync(folder)  # or a power cut might leave the earlier record with files that are not its own
    paths[PREDICTIONS].unlink(missing_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    contents = {"weights": safetensors.torch.save(plain)}
    if predictions is not None:
        contents["predictions"] = safetensors.numpy.save(dict(predictions))
    for kind, content in contents.items():
        write_file(paths[KINDS[kind]], content)
    sha256 = {kind: hashlib.sha256(content).hexdigest() for kind, content in contents.items()}
    described = dataclasses.asdict(dataclasses.replace(record, sha256=sha256))
    write_file(paths[CARD], build_card(described).encode())
    write_file(paths[RECORD], json.dumps(described, indent=2).encode())


def load_model(path: Path) -> TrainedModel:
    """Load the model whose file of weights lies at a path, its record beside it.

    Raises:
        InputError: If that is no model, or weights or record are missing, damaged or altered.
    """
    if path.suffix != WEIGHTS:
        raise InputError(f"{path} is not a model: give a .safetensors file of results/NAME/models")
    record = load_record(path.with_suffix(RECORD))
    weights = load_weights(path, record)
    try:
        config = record.build_config()
        return TrainedModel(model=restore_model(config.model, weights), config=config, record=record)
    except (InputError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} does not fit its record ({reason}): evaluate the study again") from None


def load_record(path: Path) -> ModelRecord:
    """Read a model's record.

    Raises:
        InputError: If it is missing, or not one.
    """
    try:
        content = json.loads(path.read_bytes())
        if not all(content[part].keys() >= keys for part, keys in NEEDED.items()):
            raise ValueError("incomplete")
        return ModelRecord(**content)
    except FileNotFoundError:
        weights = path.with_suffix(WEIGHTS)
        what = f"has no record ({path.name}) beside it: copy it there too" if weights.exists() else "does not exist"
        raise InputError(f"{weights} {what}, or evaluate the study again") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path} is not the record of a model, or damaged: evaluate the study again") from None


def load_weights(path: Path, record: ModelRecord) -> dict[str, Tensor]:
    """Read a model's weights.

    Raises:
        InputError: If they are missing, or not those of the record.
    """
    content = _read(path, record.sha256["weights"])
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is not a file of weights ({error}): evaluate the study again") from None


def check_files(folder: Path, record: ModelRecord) -> None:
    """Check that the files of a model are those of its record.

    Raises:
        InputError: If one is missing or altered.
    """
    for kind, sha256 in record.sha256.items():
        _read(folder / (record.label + KINDS[kind]), sha256)


def load_predictions(folder: Path, record: ModelRecord) -> dict[str, NDArray[Any]]:
    """Read the arrays that were saved with a model.

    Raises:
        InputError: If they are missing, or not those of the record.
    """
    return safetensors.numpy.load(_read(folder / (record.label + PREDICTIONS), record.sha256["predictions"]))


def _read(path: Path, sha256: str) -> bytes:
    """Read a file whose checksum is known."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): evaluate the study again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} is not what its record describes: it was altered; evaluate the study again")
    return content

"""A trained model on disk: LABEL.safetensors, LABEL.json and LABEL.md, and its predictions.

The record (LABEL.json) has the checksums of the other files. It is deleted first and written last. So after a kill in
between there are weights without a record, which no command accepts as a model.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search.config.code import import_user_code
from search.config.printable import escape
from search.config.untrusted import MANIFEST_BYTES, MAX_TEST_IMAGES, WEIGHTS_BYTES, parse_json, read_file
from search.evaluation.model_card import build_card
from search.evaluation.model_record import ModelRecord, build_record
from search.record.provenance import ROOT
from trainables.config import TrainConfig
from trainables.durable import make_folder, sync, write_file
from trainables.errors import InputError
from trainables.models.model import copy_weights, restore_model
from trainables.pixels import RULE

WEIGHTS, PREDICTIONS, RECORD, CARD = ".safetensors", ".predictions.safetensors", ".json", ".md"
"""Suffixes of a model's files."""
KINDS = {"weights": WEIGHTS, "predictions": PREDICTIONS}
"""Files whose checksum is in the record."""
SIZE = -1
"""Placeholder in ARRAYS for the height and width of the model's images."""
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "logits": ("float32", ()),
    "labels": ("uint8", ()),
    "mistakes": ("int64", ()),
    "mistake_images": ("uint8", (SIZE, SIZE, 3)),
}
"""Arrays of a test: dtype, and shape after the number of images."""
UNREADABLE = (safetensors.SafetensorError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)
"""Errors of safetensors for a file of another kind."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model with its weights, ready to predict on the CPU."""

    model: nn.Module
    config: TrainConfig
    record: ModelRecord


def describe_preprocessing(classes: Sequence[str], config: TrainConfig) -> dict[str, Any]:
    """Return how images are prepared, in training and prediction alike, and to which class the probability refers."""
    known = {"size": [config.size, config.size], **RULE, "range": [0.0, 1.0], "classes": list(classes)}
    return known | {"positive": classes[1], "flip_average": config.flip_average}


def save_model(
    folder: Path,
    record: ModelRecord,
    weights: Mapping[str, Tensor],
    predictions: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write a model; an earlier one of the same label is replaced.

    Args:
        folder: Folder of the study's models.
        record: The record, without checksums.
        weights: The model's state dict.
        predictions: Arrays by name, for `load_predictions`.
    """
    described = dataclasses.asdict(record)
    build_record(described | {"sha256": {"weights": "0" * 64}}, f"the record of {record.label}")
    paths = {suffix: folder / (record.label + suffix) for suffix in (WEIGHTS, PREDICTIONS, RECORD, CARD)}
    make_folder(folder)
    paths[RECORD].unlink(missing_ok=True)
    sync(folder)  # otherwise a power cut could leave the earlier record with the new files
    paths[PREDICTIONS].unlink(missing_ok=True)
    contents = {"weights": _serialize(weights)}
    if predictions is not None:
        contents["predictions"] = safetensors.numpy.save(dict(predictions))
    for kind, content in contents.items():
        write_file(paths[KINDS[kind]], content)
    described["sha256"] = {kind: hashlib.sha256(content).hexdigest() for kind, content in contents.items()}
    write_file(paths[CARD], build_card(described).encode())
    write_file(paths[RECORD], json.dumps(described, indent=2).encode())


def load_model(path: Path, code: Path | None = None) -> TrainedModel:
    """Load a model from its file of weights, with the record next to it.

    Args:
        path: The file of weights.
        code: Folder of the user's module with the model's architecture; None imports none.

    Raises:
        InputError: If it is not a model, or weights or record are missing, damaged or altered.
    """
    if path.suffix != WEIGHTS:
        raise InputError(f"{path} is not a model: give a .safetensors file in results/NAME/models")
    record = load_record(path.with_suffix(RECORD))
    import_user_code({"search": {"architectures": [record.retraining["architecture"]]}}, code)
    weights = load_weights(path, record)
    try:
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise InputError("a weight is not finite")
        config = record.build_config()
        return TrainedModel(model=restore_model(config.model, weights, size=config.size), config=config, record=record)
    except (InputError, OverflowError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} does not fit its record ({reason}): evaluate the study again") from None


def find_bundled() -> Path:
    """Return the file of weights that comes with this project, the only one in reference/.

    Raises:
        InputError: If there is none, or more than one.
    """
    match sorted(ROOT.glob(f"reference/*/models/*{WEIGHTS}")):
        case [path]:
            return path
        case []:
            raise InputError("no model is bundled here: name one first, a .safetensors file of results/NAME/models")
        case paths:
            raise InputError(f"several models are bundled: name one first, such as {paths[0]}")


def describe_bundled(path: Path, record: ModelRecord) -> str:
    """Return a sentence on the model that comes with this project."""
    study, accuracy = escape(path.parents[1].name), record.tested["metrics"]["accuracy"]
    return f"the bundled model answers: {record.label} of the study {study}, {accuracy:.2%} right on test"


def load_record(path: Path) -> ModelRecord:
    """Read a model's record.

    Raises:
        InputError: If it is missing or damaged.
    """
    cure = "evaluate the study again"
    try:
        content = read_file(path, MANIFEST_BYTES)
    except FileNotFoundError:
        weights = path.with_suffix(WEIGHTS)
        what = f"has no record ({path.name}) next to it: copy that file too" if weights.exists() else "does not exist"
        raise InputError(f"{weights} {what}, or {cure}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        return build_record(parse_json(content), path.name)
    except ValueError as error:
        raise InputError(f"{path} is not the record of a model, or damaged ({error}): {cure}") from None


def load_weights(path: Path, record: ModelRecord) -> dict[str, Tensor]:
    """Read a model's weights.

    Raises:
        InputError: If they are missing, or differ from the record.
    """
    content = _read(path, record.sha256["weights"])
    try:
        return safetensors.torch.load(content)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a file of weights ({error}): evaluate the study again") from None


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the file that `save_model` would write for a state dict."""
    return hashlib.sha256(_serialize(weights)).hexdigest()


def check_files(folder: Path, record: ModelRecord, kinds: Collection[str] = KINDS.keys()) -> None:
    """Check the files of a model, or those of some of KINDS, against the checksums in its record.

    Raises:
        InputError: If one is missing or altered.
    """
    for kind, sha256 in record.sha256.items():
        if kind in kinds:
            _read(folder / (record.label + KINDS[kind]), sha256)


def load_predictions(folder: Path, record: ModelRecord) -> dict[str, NDArray[Any]]:
    """Read the predictions of a model.

    Raises:
        InputError: If they are missing, or differ from the record.
    """
    path = folder / (record.label + PREDICTIONS)
    if "predictions" not in record.sha256:
        raise InputError(f"the record of {record.label} names no predictions: evaluate the study again")
    content = _read(path, record.sha256["predictions"])
    try:
        return safetensors.numpy.load(content)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a file of predictions ({error}): evaluate the study again") from None


def check_predictions(found: Mapping[str, NDArray[Any]], record: ModelRecord) -> None:
    """Check predictions: names, types and shapes of ARRAYS, and agreement with each other and with the record.

    Raises:
        InputError: If a check fails.
    """
    counts = {"mistakes": len(found["mistakes"])} if "mistakes" in found else {}
    images = sum(map(sum, record.tested["confusion"]))
    if images > MAX_TEST_IMAGES:
        raise InputError(f"the predictions of {record.label} are of {images:,} images, more than {MAX_TEST_IMAGES:,}")
    for name, (dtype, shape) in ARRAYS.items():
        sides = (record.size if side == SIZE else side for side in shape)
        expected = (counts.get("mistakes" if name.startswith("mistake") else "", images), *sides)
        if name not in found or found[name].dtype != dtype or found[name].shape != expected:
            raise InputError(f"the predictions of {record.label} lack {name}: evaluate the study again")
    labels, logits, mistakes = found["labels"], found["logits"], found["mistakes"]
    truths = [int((labels == label).sum()) for label in (0, 1)]
    is_sound = truths == [sum(row) for row in record.tested["confusion"]]
    is_sound &= not np.isnan(logits).any() and bool(((mistakes >= 0) & (mistakes < images)).all())
    if not is_sound:
        raise InputError(f"the predictions of {record.label} are not those of its test: evaluate the study again")


def _serialize(weights: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save(copy_weights(weights))


def _read(path: Path, sha256: str) -> bytes:
    """Read a file and check its checksum."""
    try:
        content = read_file(path, WEIGHTS_BYTES)
    except OSError as error:
        record = path.name.removesuffix(WEIGHTS).removesuffix(".predictions") + RECORD
        cure = f"to train the model again, delete {record} and evaluate the study"
        raise InputError(f"cannot read {path} ({error.strerror}): {cure}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} differs from its record: it was altered; evaluate the study again")
    return content

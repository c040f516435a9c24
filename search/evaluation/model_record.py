"""The record of a trained model, and the schema by which it is written and read."""

import dataclasses
import json
from typing import Any, Literal

from search.config.data import CIFAKE, Classes, Size
from search.config.fields import Architecture, Count, Digest, Few, Finite, Index, Label, Share, Temperature
from search.config.load import check
from search.config.space_checks import check_params
from search.evaluation.result import RATES, TestedModel
from search.record.provenance import Code
from trainables.config import TrainConfig, Value, build_train_config
from trainables.errors import InputError
from trainables.names import is_unknown


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """One winner and one seed, as written into the record next to the weights."""

    label: Label
    """Name of the files in models/, without dots and slashes."""
    architecture: Architecture
    rank: Count
    """1 for the best configuration of its architecture."""
    seed: Index
    """Number of the retraining, from 0."""
    trial: Index
    """Number of the trial whose configuration is retrained."""
    params: dict[str, Value]
    train_seed: Index
    """Root of the retraining's random draws."""
    max_epochs: Count
    """Length of the schedule."""
    epochs: Count
    """Epochs to train: up to the best epoch of the trial on validation, or all of the schedule."""
    max_train_images: Count | None
    split_seed: Index
    fingerprint: str
    """Of the data."""
    threshold: Finite
    """A test image is called positive above this probability."""
    temperature: Temperature = 1.0
    """Logits are divided by it before they become probabilities."""

    def describe(self) -> str:
        """Return the identity of the model, as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """All data about a trained model that are needed to train it again and to compare."""

    retraining: dict[str, Any]
    """Fields of Retraining: trial, seed, epochs, images."""
    parameters: dict[str, Any]
    """The configuration with every default written out, as `trainables.config.list_values` gives it."""
    tested: dict[str, Any]
    """Fields of search.evaluation.result.TestedModel: metrics, and the threshold on the probability of label 1."""
    preprocessing: dict[str, Any]
    """Fields of Preprocessing, the rule of decoding, and whether logits are averaged with those of the mirror image."""
    hardware: dict[str, Any]
    """Device, its name, threads, and the granted resources."""
    code: dict[str, Any]
    """search.record.provenance.describe_code."""
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of the file of weights, and of the predictions if there are any."""

    @property
    def label(self) -> str:
        """Name of the files."""
        return str(self.retraining["label"])

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return int(self.preprocessing["size"][0])

    @property
    def classes(self) -> Classes:
        """Names of the classes in the order of their labels, 0 and 1."""
        negative, positive = self.preprocessing.get("classes", CIFAKE)
        return negative, positive

    def build_config(self) -> TrainConfig:
        """Return the training that made the model."""
        known = self.retraining
        return build_train_config(
            known["architecture"],
            self.parameters,
            epochs=known["max_epochs"],
            seed=known["train_seed"],
            size=self.size,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Fields of a record about the preparation of images."""

    size: tuple[Size, Size]
    """Height and width in pixels."""
    classes: Classes = CIFAKE
    """Names of the classes in the order of their labels; the probability refers to the second one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The device that a model was trained on, as `trainables.runtime.describe_hardware` gives it, and its resources.

    If earlier epochs were trained on others, `earlier` lists these.
    """

    type: Literal["cpu", "cuda"]
    name: str
    threads: Few
    cpus: Share
    gpus: Share


PARTS: dict[str, Any] = {
    "retraining": Retraining,
    "parameters": dict[str, Value],
    "tested": TestedModel,
    "preprocessing": Preprocessing,
    "hardware": Hardware,
    "code": Code,
    "sha256": dict[Literal["weights", "predictions"], Digest],
}
"""Schema of each field of a ModelRecord."""
SHARED = ("label", "architecture", "rank", "seed", "trial", "temperature")
"""Fields that a retraining and its test have in common."""


def build_record(content: Any, where: str) -> ModelRecord:
    """Check plain values, such as those of a file or `dataclasses.asdict(record)`, and return the record.

    Raises:
        InputError: If something is missing, of another type, or does not fit the rest.
    """
    known = check(dict[str, Any], content, where)
    parts: dict[str, Any] = {}
    for name, kind in PARTS.items():
        if name not in known:
            raise InputError(f"{where} is damaged: {name}: missing")
        checked = check(kind, known[name], f"{where}, {name},")
        parts[name] = dataclasses.asdict(checked) if kind in (Retraining, TestedModel) else known[name]
    record = ModelRecord(**parts)
    if wrong := [name for name in SHARED if record.retraining[name] != record.tested[name]]:
        raise InputError(f"{where} is damaged: `retraining` and `tested` differ in {wrong[0]}")
    if "weights" not in record.sha256:
        raise InputError(f"{where} is damaged: sha256.weights: missing")
    metrics = record.tested["metrics"]
    if wrong := [name for name in (*RATES, "brier", "loss") if name not in metrics or metrics[name] < 0]:
        raise InputError(f"{where} is damaged: tested.metrics.{wrong[0]} is missing or below 0")
    if wrong := [name for name in RATES if metrics[name] > 1]:
        raise InputError(f"{where} is damaged: tested.metrics.{wrong[0]} is above 1")
    if not all(map(sum, record.tested["confusion"])):
        raise InputError(f"{where} is damaged: tested.confusion: a class without images")
    if not is_unknown(record.retraining["architecture"]):
        _check_config(record, where)
    return record


def _check_config(record: ModelRecord, where: str) -> None:
    """Check that a training can be built from a record."""
    for name, params in (("parameters", record.parameters), ("retraining.params", record.retraining["params"])):
        check_params(params, record.retraining["architecture"], f"{where}, {name}")
    try:
        record.build_config()
    except (ArithmeticError, InputError) as error:
        raise InputError(f"{where} is damaged: {error}") from None

"""Further tests of the stored models: which are missing, and their logits on disk.

A further test scores a stored model on other images than the plain test split; nothing is trained. Its logits are one
file in models/further, with the checksums of the model and of its content. So a complete file is not made again, and a
file of another model does not count.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from search.config.untrusted import MAX_TEST_IMAGES, parse_json, read_file
from search.evaluation.model_file import RECORD, UNREADABLE, load_record
from search.evaluation.result import FurtherResult
from search.record.choices import Choices
from trainables.durable import write_file
from trainables.errors import InputError
from trainables.metrics import to_probabilities
from trainables.splits import Split

FOLDER = "further"
"""Folder in the folder of the models."""
MAX_BYTES = 5 * MAX_TEST_IMAGES + 2**20
"""Most bytes of a file: a logit and a label for each image, and its description."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FurtherTest:
    """Images on which each model is scored without training; equal tests of a model have equal logits."""

    kind: Literal["perturbation", "source"]
    """`perturbation` of the test split, or `source` for images of another source."""
    name: str
    """Name of the perturbation or of the source."""
    fingerprint: str
    """Fingerprint of the images."""


Logits = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Logits (M,) and labels (M,)."""
Opener = Callable[[], Iterable[Split]]
"""Function, sent to a worker, that opens the images of a further test in parts, so that not all are in memory."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The further tests that one model lacks."""

    weights: str
    """SHA-256 of the file of weights."""
    tests: tuple[FurtherTest, ...]


def list_tests(choices: Choices) -> list[FurtherTest]:
    """Return the further tests of the choices, in the order of the report."""
    changed = [
        FurtherTest(kind="perturbation", name=name, fingerprint=choices.fingerprint) for name in choices.perturbations
    ]
    others = [FurtherTest(kind="source", name=each.name, fingerprint=each.fingerprint) for each in choices.sources]
    return [*changed, *others]


def list_due(folder: Path, labels: Iterable[str], tests: Sequence[FurtherTest]) -> dict[str, Due]:
    """Return label -> tests of a stored model that are missing or damaged; models without such tests are left out.

    Args:
        folder: Folder of the study's models.
        labels: Labels of complete models.
        tests: As `list_tests` gives them.
    """
    due = {}
    for label in labels if tests else ():
        weights = load_record(folder / (label + RECORD)).sha256["weights"]
        if missing := tuple(test for test in tests if not is_stored(folder, label, test, weights)):
            due[label] = Due(weights=weights, tests=missing)
    return due


def load_further(
    folder: Path, labels: Iterable[str], tests: Sequence[FurtherTest], truth: NDArray[np.uint8]
) -> list[FurtherResult]:
    """Return the stored results of further tests.

    Args:
        folder: Folder of the study's models.
        labels: Labels of complete models.
        tests: As `list_tests` gives them.
        truth: Labels (M,) of the test images, which a perturbation keeps.

    Raises:
        InputError: If a file is damaged, or belongs to another model or to other images.
    """
    records = [load_record(folder / (label + RECORD)) for label in labels] if tests else []
    results = []
    for test in tests:
        found, predictions = {}, {}
        for record in records:
            with contextlib.suppress(FileNotFoundError):  # its scoring failed; a note says so
                logits, found[record.label] = load_logits(folder, record.label, test, record.sha256["weights"])
                scaled = torch.from_numpy(logits).double() / record.tested.get("temperature", 1.0)
                predictions[record.label] = to_probabilities(scaled).numpy()
        if found:
            first = truth if test.kind == "perturbation" else next(iter(found.values()))
            _check_labels(test, first, found.values())
            results.append(FurtherResult(kind=test.kind, name=test.name, labels=first, predictions=predictions))
    return results


def name_file(label: str, test: FurtherTest) -> str:
    """Return the path of a file of logits, relative to the folder of the models."""
    return f"{FOLDER}/{label}.{test.kind}.{test.name}.safetensors"


def save_logits(
    folder: Path,
    label: str,
    test: FurtherTest,
    weights: str,
    *,
    logits: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> None:
    """Write the logits (M,) and labels (M,) of a further test in one step; arguments as in `load_logits`."""
    arrays: dict[str, NDArray[Any]] = {"logits": logits, "labels": labels}
    record = _describe(label, test, weights)
    record["sha256"] = _hash(record, arrays)
    content = safetensors.numpy.save(arrays, metadata={"record": json.dumps(record, sort_keys=True)})
    write_file(folder / name_file(label, test), content)


def load_logits(folder: Path, label: str, test: FurtherTest, weights: str) -> Logits:
    """Read the logits (M,) and labels (M,) of a further test.

    Args:
        folder: Folder of the study's models.
        label: Label of the model.
        test: The further test.
        weights: SHA-256 of the model's file of weights.

    Raises:
        FileNotFoundError: If there are none.
        InputError: If they are damaged, or belong to another model or to other images.
    """
    path = folder / name_file(label, test)
    cure = "evaluate the study again"
    try:
        content = read_file(path, MAX_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): {cure}") from None
    try:
        arrays, record = safetensors.numpy.load(content), _read_record(content)
        is_whole = record.pop("sha256") == _hash(record, arrays)
    except UNREADABLE:
        is_whole = False
    if not (is_whole and _is_sound(arrays)):
        raise InputError(f"{path} is damaged or not a file of logits: {cure}")
    if record != _describe(label, test, weights):
        raise InputError(f"{path} belongs to another model or to other images: {cure}")
    return arrays["logits"], arrays["labels"]


def is_stored(folder: Path, label: str, test: FurtherTest, weights: str) -> bool:
    """Return whether a further test of a model is stored and sound; arguments as in `load_logits`."""
    try:
        load_logits(folder, label, test, weights)
    except (FileNotFoundError, InputError):
        return False
    return True


def _check_labels(test: FurtherTest, first: NDArray[np.uint8], others: Iterable[NDArray[np.uint8]]) -> None:
    if not all(np.array_equal(first, labels) for labels in others):
        raise InputError(f"models were scored on other images of {test.name}: delete {FOLDER}/, and evaluate again")


def _describe(label: str, test: FurtherTest, weights: str) -> dict[str, Any]:
    return {"label": label, **dataclasses.asdict(test), "weights": weights}


def _hash(record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    parts = json.dumps(record, sort_keys=True).encode(), *(arrays[name].tobytes() for name in ("logits", "labels"))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _is_sound(arrays: Mapping[str, NDArray[Any]]) -> bool:
    logits, labels = arrays["logits"], arrays["labels"]
    has_types = logits.dtype == np.float32 and labels.dtype == np.uint8
    is_sound = has_types and logits.ndim == 1 and logits.shape == labels.shape
    return is_sound and not np.isnan(logits).any() and bool((labels <= 1).all())


def _read_record(content: bytes) -> dict[str, Any]:
    """Return the record in a sound safetensors file; the library can read metadata only from a path."""
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(parse_json(header["__metadata__"]["record"].encode()))

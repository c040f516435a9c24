"""Classifies pictures with a trained model.

python -m search predict [MODEL] IMAGE|FOLDER ... [--json|--csv] [--abstain CONFIDENCE] [--code FOLDER]
"""

import collections
import csv
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from search.commands.terminal import CodeOption, explain_errors
from search.config.printable import defuse, escape
from search.datasets.pictures import NOTES, BadPicture, Picture, list_pictures, read_pictures
from search.evaluation.calibration import is_sure
from search.evaluation.cost import count_batch
from search.evaluation.model_card import describe_limits
from search.evaluation.model_file import WEIGHTS, TrainedModel, describe_bundled, find_bundled, load_model
from search.evaluation.statistics import call_positive
from trainables.errors import InputError
from trainables.metrics import to_probabilities
from trainables.pixels import quiet_pillow
from trainables.runtime import pick_device
from trainables.splits import Split
from trainables.train import predict

UNSURE = "UNSURE"
"""Label of a picture for which no class has the confidence of --abstain."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of a model for one picture."""

    file: str
    label: str
    """Name of a class, or UNSURE."""
    probability: float
    """Probability of the positive class, a float32 in [0, 1]; above the model's threshold that class is the label."""
    width: int
    height: int
    """Size of the stored picture in pixels."""
    notes: list[str]
    """How it was converted: keys of search.datasets.pictures.NOTES."""


def main(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] IMAGE|FOLDER...",
            help="A .safetensors file, by default the bundled model; then pictures, or folders of them.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    abstain: Annotated[
        str | None,
        typer.Option(
            metavar="CONFIDENCE", help=f"Answer {UNSURE} where no class has at least this probability, such as 0.95."
        ),
    ] = None,
    code: CodeOption = None,
) -> None:
    """Print each picture's class, and the probability of the positive one. Exit code 1 if a file cannot be read."""
    with explain_errors():
        if as_json and as_csv:
            raise InputError("--json and --csv exclude each other: pass one")
        confidence = None if abstain is None else _parse_confidence(abstain)
        named, pictures = _split_paths(paths)
        model = named or find_bundled()
        trained = load_model(model, code)
        if confidence is not None and UNSURE in trained.record.classes:
            raise InputError(f"--abstain: a class of this model is named {UNSURE}, so its answers would be ambiguous")
        if named is None:
            typer.echo(f"note: {describe_bundled(model, trained.record)}", err=True)
        answers, bad = _ask(trained, pictures, confidence)
        for picture in bad:
            typer.echo(f"skipped: {escape(picture.path)} {escape(picture.reason)}", err=True)
        if as_json:
            _print_json(trained, answers, bad, confidence)
        else:
            for note in _list_notes(trained, answers, confidence):
                typer.echo(f"note: {note}", err=True)
            (_print_csv if as_csv else _print_lines)(answers)
    if bad:
        raise typer.Exit(1)


def _split_paths(paths: Sequence[Path]) -> tuple[Path | None, Sequence[Path]]:
    """Return the model that the user named, if any, and the pictures."""
    models = [path for path in paths if path.suffix == WEIGHTS]
    if not models:
        return None, paths
    if models != paths[:1]:
        raise InputError(f"{models[-1]} is a model by its suffix: name one model, before the pictures")
    if not paths[1:]:
        raise InputError(f"{models[0]} is a model by its suffix: name pictures, or folders of them, after it")
    return models[0], paths[1:]


def _parse_confidence(text: str) -> float:
    try:
        confidence = float(text)
    except ValueError:
        confidence = float("nan")
    if not 0.5 <= confidence < 1:
        raise InputError(f"--abstain {text}: expected a confidence of at least 0.5 and below 1")
    return confidence


def answer(
    trained: TrainedModel, paths: Sequence[Path], progress: Callable[[int], None], confidence: float | None = None
) -> tuple[list[Answer], list[BadPicture]]:
    """Score pictures; threads read the next ones while the model computes.

    Args:
        trained: The model.
        paths: Files of the pictures.
        progress: Called with the number of further files done.
        confidence: Probability that a class must have, else the answer is UNSURE; None sets no limit.

    Returns:
        The answers in the order of the files, and the files that could not be read.
    """
    answers: list[Answer] = []
    bad: list[BadPicture] = []
    device, size = pick_device(), trained.record.size
    num = count_batch(trained.config.model, size=size) if len(paths) > 1 else 1
    with quiet_pillow():
        for batch in read_pictures(paths, size, num):
            good = [picture for picture in batch if isinstance(picture, Picture)]
            bad += [picture for picture in batch if isinstance(picture, BadPicture)]
            if good:
                probabilities = _score(trained, np.stack([picture.pixels for picture in good]), device)
                answers += map(_build_answer, good, probabilities.tolist(), _label(trained, probabilities, confidence))
            progress(len(batch))
    return answers, bad


def _label(trained: TrainedModel, probabilities: NDArray[np.float32], confidence: float | None) -> list[str]:
    """Return the names of the answers to probabilities (N,) of label 1."""
    called = call_positive(probabilities, trained.record.tested["threshold"])
    sure = is_sure(probabilities, 0.5 if confidence is None else confidence)
    return [
        trained.record.classes[int(positive)] if known else UNSURE for positive, known in zip(called, sure, strict=True)
    ]


def _ask(
    trained: TrainedModel, given: Sequence[Path], confidence: float | None
) -> tuple[list[Answer], list[BadPicture]]:
    """Find the pictures and score them, with a progress bar on a terminal."""
    listed = [(path, list_pictures(path)) for path in given]
    empty = [BadPicture(path=path, reason="contains no pictures") for path, found in listed if not found]
    paths = [file for _, found in listed for file in found]
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("scoring", total=len(paths))
        answers, bad = answer(trained, paths, lambda done: bar.advance(task, done), confidence)
    return answers, [*empty, *bad]


def _score(trained: TrainedModel, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """Compute the probabilities of label 1 (N,) of images (N, size, size, 3)."""
    count = len(images)
    unknown = torch.zeros(count, dtype=torch.uint8)
    split = Split(images=torch.from_numpy(images), labels=unknown, indices=torch.arange(count))
    config = trained.config
    logits = predict(
        trained.model, split, device=device, flip_average=config.flip_average, deterministic=config.deterministic
    )
    probabilities: NDArray[np.float32] = to_probabilities(logits, trained.record.tested["temperature"]).numpy()
    if np.isnan(probabilities).any():
        raise InputError(f"{trained.record.label} gives no number for some pictures: its weights are unusable")
    return probabilities


def _build_answer(picture: Picture, probability: float, label: str) -> Answer:
    return Answer(
        file=str(picture.path),
        label=label,
        probability=probability,
        width=picture.width,
        height=picture.height,
        notes=picture.notes,
    )


def _list_notes(trained: TrainedModel, answers: Sequence[Answer], confidence: float | None) -> list[str]:
    """Return the notes on all answers."""
    counts = collections.Counter(note for answer in answers for note in answer.notes)
    size = trained.record.size
    found = (f"{counts[name]:,} of {len(answers):,} {NOTES[name].format(size=size)}" for name in NOTES if counts[name])
    num_unsure = sum(found.label == UNSURE for found in answers)
    unsure = f"{num_unsure:,} of {len(answers):,} {UNSURE}: no class has a probability of at least {confidence}"
    return [f"{describe_limits(size)}.", *found, *([] if confidence is None else [unsure])]


def _print_lines(answers: Sequence[Answer]) -> None:
    for found in answers:
        typer.echo(f"{escape(found.label)}  {found.probability:.4f}  {escape(found.file)}")


def _print_csv(answers: Sequence[Answer]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "label", "probability", "width", "height", "notes"])
    for found in answers:
        row = [found.file, found.label, found.probability, found.width, found.height, " ".join(found.notes)]
        writer.writerow(map(defuse, row))


def _print_json(
    trained: TrainedModel, answers: Sequence[Answer], bad: Sequence[BadPicture], confidence: float | None
) -> None:
    document: dict[str, Any] = {
        "model": trained.record.label,
        "weights_sha256": trained.record.sha256["weights"],
        "threshold": trained.record.tested["threshold"],
        "temperature": trained.record.tested["temperature"],
        "abstain": confidence,
        "classes": trained.record.classes,
        "limits": _list_notes(trained, answers, confidence),
        "images": [dataclasses.asdict(found) for found in answers],
        "skipped": [{"file": str(picture.path), "reason": picture.reason} for picture in bad],
    }
    typer.echo(json.dumps(document, indent=1))

"""Trains stored models again from their records alone, and compares.

python -m search reproduce results/NAME [--model ARCH|ARCH-rankN|LABEL] [--seed K] [--data PATH] [--cache FOLDER]
    [--code FOLDER]
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

from search.cluster.worker import prepare_device
from search.commands.terminal import CodeOption, build_console, explain_errors
from search.config.code import import_user_code
from search.config.load import dump
from search.config.schema import ResourceConfig
from search.datasets.prepare import prepare_data
from search.evaluation.model_file import RECORD, WEIGHTS, hash_weights, load_record, load_weights
from search.evaluation.model_record import ModelRecord, Retraining
from search.evaluation.result import TestedModel
from search.evaluation.sealed_test import train_and_test
from search.record.provenance import describe_code, describe_commit, list_changed
from search.record.reading import fetch_folder, load_classifiers, load_study
from trainables.errors import InputError
from trainables.pack_info import load_info
from trainables.runtime import describe_hardware, pick_device
from trainables.train import EVAL_PRECISIONS

DEPENDENCIES = ("torch", "torchvision", "numpy", "scikit-learn")
"""Packages whose versions may change a model's last bits."""
TOLERANCE = 0.02
"""Largest accepted difference of a metric in [0, 1] if bits cannot agree; it was not measured on a second machine."""
UNBOUNDED = ("loss",)
"""Metrics that are not compared if bits cannot agree, because one confident mistake changes them much."""


def main(
    place: Annotated[
        str, typer.Argument(metavar="results/NAME", help="Folder of an evaluated study, or its URL in a store.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Only the winner of this architecture, another one such as cnn-rank2, or a single cnn-seed0."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder or zip of the images, if they were moved.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for the packed images; by default the user's.")] = None,
    code: CodeOption = None,
) -> None:
    """Train stored models again and compare weights and metrics; exit code 1 if they differ. Nothing is changed."""
    console = build_console()
    with explain_errors():
        folder = import_user_code(dump(load_classifiers(place, uses_journal=False)), code)
        with fetch_folder(place) as study:
            records = choose_records(study, place, model, seed)
            pack = _prepare(study, records, data, cache, console)
            same = [_reproduce(study, record, pack, folder, console) for record in records]
        console.print(f"{sum(same)} of {len(same)} models reproduced.")
    if not all(same):
        raise typer.Exit(1)


def choose_records(study: Path, place: str, model: str | None, seed: int | None) -> list[ModelRecord]:
    """Read the records of a study's models from its folder; messages name the place that the user gave.

    Raises:
        InputError: If there is no such model.
    """
    records = [load_record(path) for path in sorted((study / "models").glob(f"*{RECORD}"))]
    if not records:
        raise InputError(f"{place} has no models: run python -m search evaluate first")
    chosen = [
        record
        for record in records
        if model in (None, record.label, record.label.removesuffix(f"-seed{record.retraining['seed']}"))
        and seed in (None, record.retraining["seed"])
    ]
    if not chosen:
        raise InputError(f"{place} has no such model; there are {', '.join(record.label for record in records)}")
    return chosen


def list_obstacles(record: ModelRecord, hardware: Mapping[str, Any], code: Mapping[str, Any]) -> list[str]:
    """Return why the bits may differ: other or several hardware, other versions, or a GPU without `deterministic`."""
    found = [
        f"{'native precision' if name == 'precision' else name} {record.hardware[name]} became {hardware[name]}"
        for name in hardware  # its precision is what `auto` would choose; the training's stands in the parameters
        if record.hardware.get(name) != hardware[name]
    ]
    before = record.code["packages"]
    found += [
        f"{name} {before.get(name)} became {code['packages'][name]}"
        for name in DEPENDENCIES
        if before.get(name) != code["packages"][name]
    ]
    if record.hardware.get("earlier"):
        found.append("it was trained on several machines, or with several numbers of threads")
    if record.hardware["type"] == "cuda" and not record.parameters.get("deterministic"):
        found.append("it was trained on a GPU without `deterministic`")
    return found


def compare(
    record: ModelRecord,
    stored: Mapping[str, Tensor] | None,
    weights: Mapping[str, Tensor],
    metrics: Mapping[str, float],
) -> tuple[float, dict[str, float]]:
    """Return the largest difference of a weight, and the difference of each metric; 0 means bit for bit.

    Without stored weights their checksum in the record is compared, and a difference is NaN, for unknown.

    Raises:
        InputError: If the weights are those of another model.
    """
    known = record.tested["metrics"]
    differences = {name: abs(metrics[name] - known[name]) for name in known if name in metrics}
    if stored is None:
        return 0.0 if hash_weights(weights) == record.sha256["weights"] else float("nan"), differences
    if {name: tensor.shape for name, tensor in stored.items()} != {n: tensor.shape for n, tensor in weights.items()}:
        raise InputError(f"{record.label} has other weights than this code builds: use the commit of its record")
    return max(_differ(stored[name], weights[name]) for name in stored), differences


def _differ(one: Tensor, other: Tensor) -> float:
    if torch.equal(one, other.cpu()):
        return 0.0
    return float((one.double() - other.cpu().double()).abs().max()) or float("inf")


def _prepare(
    study: Path, records: Sequence[ModelRecord], data: Path | None, cache: Path | None, console: Console
) -> Path:
    """Return the pack of the images on which the models were trained."""
    given = [f"data.{name}={json.dumps(str(path))}" for name, path in (("path", data), ("cache", cache)) if path]
    config, _ = load_study(study, given, uses_journal=False)
    pack = prepare_data(config, console)
    found = load_info(pack).fingerprint
    if wrong := [record.label for record in records if record.retraining["fingerprint"] != found]:
        raise InputError(f"{config.data.path} has other images than {wrong[0]} was trained on: give them with --data")
    return pack


def _reproduce(study: Path, record: ModelRecord, pack: Path, folder: str | None, console: Console) -> bool:
    """Train a model again and print the comparison; return whether it is the same."""
    path = study / "models" / (record.label + WEIGHTS)
    stored = load_weights(path, record) if path.exists() else None  # a published study has those of one model
    params = {"precision": EVAL_PRECISIONS[record.hardware["type"]]} | record.parameters  # old records lack it
    retraining = Retraining(**record.retraining | {"params": params})
    has_gpu = pick_device().type != "cpu"
    granted = ResourceConfig(cpus=record.hardware["cpus"], gpus=record.hardware["gpus"] if has_gpu else 0.0)
    device = prepare_device(granted.cpus, granted.gpus)
    code = describe_code(folder)
    if changed := list_changed(record.code.get("own", {}), code.get("own", {})):
        raise InputError(f"{record.label} was trained with other content of your {changed[0]}: restore it")
    obstacles = list_obstacles(record, describe_hardware(device), code)
    console.print(f"{record.label}: training {retraining.epochs} epochs again in {params['precision']} ...")
    model, tested = train_and_test(retraining, pack, granted)
    largest, metrics = compare(record, stored, model.state_dict(), tested.metrics)
    same = _judge(record, tested, largest, metrics, obstacles, console)
    if not same and record.code["commit"] != code["commit"]:
        console.print(f"  it was trained by commit {describe_commit(record.code)}, this is {describe_commit(code)}")
    return same


def _judge(
    record: ModelRecord,
    tested: TestedModel,
    largest: float,
    metrics: Mapping[str, float],
    obstacles: Sequence[str],
    console: Console,
) -> bool:
    """Print whether a model is the same: bit for bit, or within the tolerance if bits cannot agree."""
    known = record.tested["metrics"]
    for name, difference in metrics.items():
        if difference:
            console.print(f"  {name} {known[name]:.6f} became {tested.metrics[name]:.6f}")
    if largest == 0 and not any(metrics.values()):
        console.print("  the same, weights and metrics, bit for bit")
        return True
    console.print("  the weights differ" + ("" if math.isnan(largest) else f" by up to {largest:.2e}"))
    if not obstacles:
        console.print("  DIFFERENT: on the same machine and versions every bit should agree")
        return False
    worst = max((value for name, value in metrics.items() if name not in UNBOUNDED), default=0.0)
    same = worst <= TOLERANCE
    console.print(f"  bits cannot agree ({'; '.join(obstacles)})")
    verdict = f"the metrics agree within {TOLERANCE}" if same else f"DIFFERENT: a metric is off by {worst:.4f}"
    console.print(f"  {verdict} (tolerance {TOLERANCE}; {', '.join(UNBOUNDED)} is not compared)")
    return same

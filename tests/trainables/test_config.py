import dataclasses
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.config import ARCHITECTURES, TrainConfig, build_train_config, list_defaults, list_values
from trainables.errors import InputError
from trainables.models.cnn.config import CnnConfig

FLOATS = [field.name for field in dataclasses.fields(TrainConfig) if field.type is float]
EXTREMES: dict[str, tuple[Any, ...]] = {
    "batch_size": (1, 10**6),
    "learning_rate": (1e-30, 1e30),
    "muon_learning_rate": (1e-30, 1e30),
    "weight_decay": (0.0, 1e30),
    "warmup_frac": (0.0, 0.999),
    "crop_padding": (0, 16),
    "cutout": (0, 32),
    "label_smoothing": (0.0, 0.999),
    "ema_decay": (0.0, 0.9999),
}
"""Smallest and largest values that are allowed."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("seed", -1),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("muon_learning_rate", 0.0),
        ("weight_decay", -1e-9),
        ("warmup_frac", 1.0),
        ("warmup_frac", -0.1),
        ("crop_padding", 17),
        ("crop_padding", -1),
        ("cutout", 33),
        ("cutout", -1),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("precision", "half"),
        *((name, math.nan) for name in FLOATS),
        *((name, math.inf) for name in FLOATS),
        ("learning_rate", 1e39),
        ("weight_decay", 1e39),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match="^" + re.escape(f"{name} = {value!r}: expected ")):
        TrainConfig(**{"model": CnnConfig(), "epochs": 1} | {name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ARCHITECTURES.values())
def test_a_number_of_a_model_that_is_not_finite_is_refused(kind: Any, value: float) -> None:
    names = [field.name for field in dataclasses.fields(kind) if field.type is float]
    assert names
    for name in names:
        with pytest.raises(InputError, match=f"^{name} = {value!r}: expected "):
            kind(**{name: value})


@pytest.mark.parametrize(
    ("architecture", "params"),
    [
        ("cnn", {"batch_norm": True, "num_blocks": 5, "filters": 4, "head": "gap"}),
        ("cnn", {"batch_norm": True, "num_blocks": 5, "filters": 4, "convs_per_block": 2, "kernel_size": 7}),
        *(
            ("cnn", {"batch_norm": norm, "num_blocks": blocks, "filters": 4, "pool": pool, "whiten": whiten, **convs})
            for norm, blocks, pool in ((True, 5, "first"), (True, 4, "first"), (True, 5, "last"), (False, 5, "first"))
            for whiten in (False, True)
            for convs in ({"convs_per_block": 1}, {"convs_per_block": 2})
        ),
        *(
            ("resnet50", {"stem": stem, "input_size": size, "weights": weights, "trainable_stages": stages})
            for stem, size in (("imagenet", 32), ("imagenet", 64), ("half", 32), ("cifar", 32))
            for weights, stages in (("none", 0), ("stored.pt", 0), ("stored.pt", 1))
        ),
    ],
)
def test_a_batch_of_one_image_is_refused_where_the_model_cannot_train_on_it(
    architecture: str, params: dict[str, Any]
) -> None:
    config = build_train_config(architecture, params, epochs=1, seed=0).model
    model = config.build(size=32).train()
    try:
        model(torch.rand(1, 3, 32, 32)).backward()
    except ValueError:  # batch normalisation expects more than 1 value per channel
        pass
    else:
        build_train_config(architecture, {**params, "batch_size": 1}, epochs=1, seed=0)
        return
    with pytest.raises(InputError, match="batch_size = 1: expected at least 2, because batch normalisation"):
        build_train_config(architecture, {**params, "batch_size": 1}, epochs=1, seed=0)
    model(torch.rand(2, 3, 32, 32)).sum().backward()


def test_a_trainings_values_are_independent_so_all_extremes_go_together() -> None:
    for values in itertools.product(*EXTREMES.values()):
        params = dict(zip(EXTREMES, values, strict=True))
        assert list_values(build_train_config("cnn", params, epochs=1, seed=0)).items() >= params.items()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flat_parameters_and_trainings_turn_into_each_other(architecture: str) -> None:
    changed = list_defaults(architecture) | {"cutout": 8, "ema_decay": 0.99, "flip_average": True, "dropout": 0.25}
    assert list_values(build_train_config(architecture, changed, epochs=3, seed=4)) == changed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_without_parameters_has_the_defaults(architecture: str) -> None:
    config = build_train_config(architecture, {}, epochs=20, seed=0)
    assert config == TrainConfig(model=ARCHITECTURES[architecture](), epochs=20)
    assert list_values(config) == list_defaults(architecture)


def test_a_parameter_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match=r"cnn has no parameter cut_out; known: .*cutout"):
        build_train_config("cnn", {"cut_out": 8}, epochs=1, seed=0)


def test_configurations_are_imported_without_torch() -> None:
    program = "import sys, trainables.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode == 0

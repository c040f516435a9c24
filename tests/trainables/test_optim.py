import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainables.config import TrainConfig
from trainables.errors import InputError
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model
from trainables.models.resnet50.config import ResNet50Config
from trainables.names import IMPORTED
from trainables.optim import (
    OPTIMIZERS,
    SCHEDULES,
    build_optimizer,
    check_optimizer,
    constant,
    cosine,
    one_cycle,
    schedule,
)


@pytest.mark.parametrize(
    ("progress", "warmup_frac", "expected"),
    [
        (0.0, 0.0, 1.0),
        (0.5, 0.0, 0.5),
        (1.0, 0.0, 0.0),
        (0.0, 0.2, 0.0),
        (0.1, 0.2, 0.5),
        (0.2, 0.2, 1.0),
        (0.6, 0.2, 0.5),
        (1.0, 0.2, 0.0),
    ],
)
def test_cosine_warms_up_to_one_and_decays_to_zero(progress: float, warmup_frac: float, expected: float) -> None:
    assert cosine(progress, warmup_frac=warmup_frac) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "warmup_frac", "expected"),
    [(0.0, 0.0, 1.0), (1.0, 0.0, 1.0), (0.0, 0.5, 0.0), (0.25, 0.5, 0.5), (0.5, 0.5, 1.0), (1.0, 0.5, 1.0)],
)
def test_constant_warms_up_to_one_and_stays(progress: float, warmup_frac: float, expected: float) -> None:
    assert constant(progress, warmup_frac=warmup_frac) == expected


@pytest.mark.parametrize(("num_steps", "share"), [(11, 0.3), (200, 0.25)])
def test_one_cycle_is_that_of_pytorch(num_steps: int, share: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=num_steps, pct_start=share, cycle_momentum=False
    )
    warmup_frac = (share * num_steps - 1) / (num_steps - 1)
    for step in range(num_steps):
        found = one_cycle(min(1.0, step / (num_steps - 1)), warmup_frac=warmup_frac)
        assert found == pytest.approx(reference.get_last_lr()[0], rel=1e-6, abs=1e-12)
        optimizer.step()
        if step < num_steps - 1:
            reference.step()


def test_one_cycle_without_warm_up_only_falls() -> None:
    rates = [one_cycle(progress / 10, warmup_frac=0.0) for progress in range(11)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_outside_zero_to_one_is_refused(name: str, progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress = .*: expected 0 to 1"):
        SCHEDULES[name](progress, warmup_frac=0.5)


def test_the_schedule_scales_the_peak_rate_and_sets_every_group() -> None:
    config = TrainConfig(model=CnnConfig(), epochs=1, learning_rate=0.4, schedule="cosine")
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=9.0)
    assert schedule(optimizer, config, 0.5) == pytest.approx(0.2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_rate_and_decay_and_lowers_a_convex_loss(name: str) -> None:
    config = TrainConfig(model=CnnConfig(), epochs=1, optimizer=name, learning_rate=0.1, weight_decay=0.01)
    model = nn.Linear(4, 1)
    optimizer = build_optimizer(config, model)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.01)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (model(torch.eye(4)) - 1.0).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_sgd_has_nesterov_momentum() -> None:
    optimizer = build_optimizer(TrainConfig(model=CnnConfig(), epochs=1, optimizer="sgd"), nn.Linear(1, 1))
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.9, True)


def test_frozen_weights_are_not_handed_to_the_optimizer(resnet50_weights: Path) -> None:
    model = build_model(ResNet50Config(trainable_stages=0, weights=str(resnet50_weights)))
    optimizer = build_optimizer(TrainConfig(model=ResNet50Config(), epochs=1), model)
    assert [tuple(parameter.shape) for parameter in optimizer.param_groups[0]["params"]] == [(1, 2048), (1,)]


REFERENCES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda weights, **kwargs: torch.optim.SGD(weights, momentum=0.9, nesterov=True, **kwargs),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_every_optimizer_steps_saves_and_resumes_as_that_of_pytorch_does(name: str) -> None:
    config = TrainConfig(model=CnnConfig(), epochs=1, optimizer=name, learning_rate=0.1, weight_decay=0.01)
    models = [nn.Linear(4, 1), nn.Linear(4, 1)]
    models[1].load_state_dict(models[0].state_dict())
    ours = build_optimizer(config, models[0])
    reference = REFERENCES[name](models[1].parameters(), lr=0.1, weight_decay=0.01, fused=True)
    for step in range(6):
        if step == 3:
            state = ours.state_dict()
            ours = build_optimizer(config, models[0])
            ours.load_state_dict(state)
        for model, optimizer in zip(models, (ours, reference), strict=True):
            optimizer.zero_grad()
            (model(torch.eye(4)) - 1.0).square().mean().backward()
            optimizer.step()
        assert torch.equal(models[0].weight, models[1].weight)
    assert ours.state_dict().keys() == reference.state_dict().keys()
    assert ours.state_dict()["param_groups"] == reference.state_dict()["param_groups"]


def test_an_optimizer_whose_state_no_checkpoint_can_give_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            self.param_groups[0]["count"] = np.float64(1.0)
            return super().step(closure)

    monkeypatch.setitem(IMPORTED, "mine:Counting", Counting)
    with pytest.raises(InputError, match=r"^mine:Counting cannot train \(UnpicklingError: "):
        check_optimizer("mine:Counting")
    monkeypatch.setitem(IMPORTED, "mine:Plain", torch.optim.SGD)
    check_optimizer("mine:Plain")


def test_no_step_imports_the_compiler() -> None:
    program = (
        "import sys, torch\n"
        "from trainables.optim import OPTIMIZERS\n"
        "for build in OPTIMIZERS.values():\n"
        "    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))\n"
        "    groups = [{'params': [matrix], 'use_muon': True}, {'params': [vector]}]\n"
        "    optimizer = build(groups, lr=0.1, fused=True)\n"
        "    optimizer.zero_grad()\n"
        "    (matrix @ vector).sum().backward()\n"
        "    optimizer.step()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode == 0

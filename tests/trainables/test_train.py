import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from trainables import checkpoint
from trainables.augment import crop, cutout, flip
from trainables.average import Average
from trainables.config import TrainConfig
from trainables.errors import InputError, TrainingError
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model
from trainables.models.resnet50.config import ResNet50Config
from trainables.seed import derive_seed
from trainables.splits import Split
from trainables.train import Epoch, predict, train

CPU = torch.device("cpu")
SMALL = CnnConfig(filters=4, dense_units=8)
HARD = TrainConfig(
    model=CnnConfig(filters=4, growth=2.0, batch_norm=True, dense_units=8, dropout=0.5),
    epochs=4,
    seed=3,
    batch_size=16,
    optimizer="adamw",
    weight_decay=0.1,
    schedule="one_cycle",
    warmup_frac=0.3,
    flip=True,
    crop_padding=4,
    cutout=8,
    label_smoothing=0.1,
    ema_decay=0.9,
    flip_average=True,
    deterministic=True,
)
"""Every source of randomness and of state at once."""
TIMES = ("seconds", "images_per_second", "peak_memory_bytes")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def draw_split(num: int, *, unused: int = 0, seed: int = 0) -> Split:
    """Noise whose REAL images are a little brighter, in a file that also holds images of no split."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num + unused).remainder(2).to(torch.uint8)
    images = torch.randint(0, 200, (num + unused, 32, 32, 3), generator=generator) + 40 * labels.view(-1, 1, 1, 1)
    indices = torch.randperm(num + unused, generator=generator)[:num].sort().values
    return Split(images=images.to(torch.uint8), labels=labels, indices=indices)


def drop_times(epoch: Epoch) -> dict[str, float]:
    return {name: value for name, value in epoch.metrics.items() if name not in TIMES}


def run(config: TrainConfig, resume: dict[str, Any] | None = None) -> list[tuple[dict[str, float], dict[str, Any]]]:
    """Metrics (without times) and state of each epoch."""
    epochs = train(config, draw_split(70, unused=9), draw_split(30, seed=1), device=CPU, resume=resume)
    return [(drop_times(epoch), epoch.state()) for epoch in epochs]


def is_equal(one: Any, other: Any) -> bool:
    """Whether two states are the same to the bit, times aside."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        names = one.keys() - set(TIMES)
        return names == other.keys() - set(TIMES) and all(is_equal(one[name], other[name]) for name in names)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("optimizer", "build"),
    [
        ("adam", lambda weights: torch.optim.Adam(weights, lr=0.01)),
        ("adamw", lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.0)),
        ("sgd", lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, nesterov=True)),
    ],
)
def test_the_loop_equals_a_plain_reference_loop(optimizer: Any, build: Any) -> None:
    params: Any = {"optimizer": optimizer, "learning_rate": 0.01, "precision": "float32"}
    config = TrainConfig(model=SMALL, epochs=2, batch_size=16, **params)
    split = draw_split(70, unused=9)
    losses = [epoch.metrics["train_loss"] for epoch in train(config, split, None, device=CPU)]

    model = build_model(SMALL, seed=derive_seed(0, "weights"))
    reference = build(model.parameters())
    expected = []
    for epoch in (1, 2):
        generator = torch.Generator().manual_seed(derive_seed(0, "shuffling", epoch))
        order = split.indices[torch.randperm(70, generator=generator)]
        total = 0.0
        for start in range(0, 64, 16):
            chosen = order[start : start + 16]
            images = split.images[chosen].permute(0, 3, 1, 2) / 255
            loss = nn.BCEWithLogitsLoss()(model(images), split.labels[chosen].float())
            reference.zero_grad()
            loss.backward()
            reference.step()
            total += loss.item()
        expected.append(total / 4)
    assert losses == pytest.approx(expected, rel=1e-5)


def test_augmentation_and_schedule_enter_the_loop_as_they_stand() -> None:
    config = TrainConfig(
        model=SMALL,
        epochs=2,
        batch_size=16,
        optimizer="sgd",
        schedule="cosine",
        flip=True,
        crop_padding=3,
        cutout=8,
        label_smoothing=0.2,
        precision="float32",
    )
    split = draw_split(64)
    epochs = list(train(config, split, None, device=CPU))

    model = build_model(SMALL, seed=derive_seed(0, "weights"))
    reference = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True)
    step = 0
    for epoch in epochs:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(derive_seed(0, "shuffling", epoch.number)))
        generator = torch.Generator().manual_seed(derive_seed(0, "augmentation", epoch.number))
        total, correct = 0.0, 0
        for chosen in order.split(16):
            rate = 1e-3 * 0.5 * (1 + math.cos(math.pi * (step + 0.5) / 8))
            reference.param_groups[0]["lr"] = rate
            images = crop(flip(split.images[chosen], generator=generator), 3, generator=generator)
            images = cutout(images, 8, generator=generator)
            logits = model(images.permute(0, 3, 1, 2) / 255)
            smoothed = torch.tensor([0.1, 0.9])[split.labels[chosen].long()]
            loss = functional.binary_cross_entropy_with_logits(logits, smoothed)
            reference.zero_grad()
            loss.backward()
            reference.step()
            total, correct, step = (
                total + loss.item(),
                correct + int(((logits > 0) == split.labels[chosen]).sum()),
                step + 1,
            )
        assert epoch.metrics["train_loss"] == pytest.approx(total / 4, rel=1e-5)
        assert epoch.metrics["train_accuracy"] == correct / 64
        assert epoch.metrics["learning_rate"] == pytest.approx(rate)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_runs_are_bitwise_equal_although_the_caller_draws_in_between(precision: Any) -> None:
    config = dataclasses.replace(HARD, precision=precision)
    straight = run(config)
    disturbed = []
    for epoch in train(config, draw_split(70, unused=9), draw_split(30, seed=1), device=CPU):
        torch.manual_seed(len(disturbed))
        torch.rand(100)
        disturbed.append((drop_times(epoch), epoch.state()))
    assert is_equal(straight, disturbed)


def test_another_seed_gives_another_run() -> None:
    config = TrainConfig(model=SMALL, epochs=1)
    other = TrainConfig(model=SMALL, epochs=1, seed=1)
    assert run(config)[0][0]["train_loss"] != run(other)[0][0]["train_loss"]


def test_the_callers_generator_is_never_touched() -> None:
    before = torch.get_rng_state()
    for _ in train(HARD, draw_split(40), draw_split(10), device=CPU):
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_resumed_run_equals_the_straight_run(tmp_path: Path, cut: int, optimizer: Any, precision: Any) -> None:
    config = dataclasses.replace(HARD, optimizer=optimizer, precision=precision)
    straight = run(config)
    checkpoint.save(tmp_path / "state", straight[cut - 1][1])
    resumed = run(config, resume=checkpoint.load(tmp_path / "state"))
    assert [metrics["epoch"] for metrics, _ in resumed] == list(range(cut + 1, 5))
    assert is_equal(straight[cut:], resumed)


def test_whitening_follows_from_the_training_images_and_stays() -> None:
    config = dataclasses.replace(HARD, model=dataclasses.replace(HARD.model, whiten=True), epochs=2, optimizer="muon")
    straight = run(config)
    first, second = (state["model"]["0.weight"] for _, state in straight)
    assert torch.equal(first, second)
    assert is_equal(straight[1:], run(config, resume=straight[0][1]))
    other = next(iter(train(config, draw_split(40, seed=5), None, device=CPU))).state()["model"]["0.weight"]
    assert not torch.equal(first, other)


def test_bfloat16_gives_other_weights_than_float32_and_almost_the_same_loss() -> None:
    short, *_ = run(dataclasses.replace(HARD, precision="bfloat16"))
    full, *_ = run(dataclasses.replace(HARD, precision="float32"))
    assert not is_equal(short[1]["model"], full[1]["model"])
    assert short[0]["train_loss"] == pytest.approx(full[0]["train_loss"], rel=0.01)
    assert all(each.dtype != torch.bfloat16 for each in short[1]["model"].values())


@pytest.mark.parametrize("is_native", [False, True])
def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, is_native: bool) -> None:
    monkeypatch.setattr("trainables.runtime.multiplies_bfloat16", lambda: is_native)
    expected: Any = "bfloat16" if is_native else "float32"
    auto, chosen = (run(dataclasses.replace(HARD, epochs=1, precision=each))[0] for each in ("auto", expected))
    assert auto[1]["precision"] == expected
    assert is_equal(auto, chosen)


@pytest.mark.parametrize("began", ["float32", "bfloat16"])
def test_a_training_keeps_the_precision_that_it_began_with(monkeypatch: pytest.MonkeyPatch, began: str) -> None:
    """It began on one machine, and continues on one where auto is the other precision."""
    monkeypatch.setattr("trainables.runtime.multiplies_bfloat16", lambda: began == "bfloat16")
    straight = run(HARD)
    monkeypatch.setattr("trainables.runtime.multiplies_bfloat16", lambda: began != "bfloat16")
    resumed = run(HARD, resume=straight[0][1])
    assert all(len(state.pop("hardware")) == 2 for _, state in resumed)
    assert all(len(state.pop("hardware")) == 1 for _, state in straight)
    assert is_equal(straight[1:], resumed)


def test_a_state_of_a_version_without_precisions_continues_in_float32() -> None:
    config = dataclasses.replace(HARD, precision="float32")
    straight = run(config)
    old = {name: value for name, value in straight[0][1].items() if name != "precision"}
    assert is_equal(straight[1:], run(dataclasses.replace(config, precision="auto"), resume=old))


def test_every_epoch_draws_again() -> None:
    config = TrainConfig(model=HARD.model, epochs=2, batch_size=16, learning_rate=1e-12, flip=True, crop_padding=4)
    (first, _), (second, _) = run(config)
    assert first["train_loss"] != second["train_loss"]


def test_dropout_draws_again_in_every_epoch() -> None:
    same = Split(
        images=torch.full((16, 32, 32, 3), 100, dtype=torch.uint8),
        labels=torch.ones(16, dtype=torch.uint8),
        indices=torch.arange(16),
    )
    config = TrainConfig(model=CnnConfig(filters=4, dropout=0.5), epochs=2, optimizer="sgd", learning_rate=1e-30)
    first, second = train(config, same, None, device=CPU)
    assert first.metrics["train_loss"] != second.metrics["train_loss"]


@pytest.mark.parametrize("stages", [1, 5])
def test_a_resumed_resnet50_equals_the_straight_run(resnet50_weights: Path, stages: int) -> None:
    model = ResNet50Config(
        weights=str(resnet50_weights), trainable_stages=stages, hidden_layers=1, hidden_units=8, dropout=0.5
    )
    config = TrainConfig(model=model, epochs=2, batch_size=4, optimizer="sgd", flip=True, crop_padding=4)
    straight = [(drop_times(epoch), epoch.state()) for epoch in train(config, draw_split(4), None, device=CPU)]
    resumed = train(config, draw_split(4), None, device=CPU, resume=straight[0][1])
    assert is_equal(straight[1:], [(drop_times(epoch), epoch.state()) for epoch in resumed])
    assert straight[0][0]["train_loss"] != straight[1][0]["train_loss"]


def test_a_run_resumed_at_its_end_has_no_epoch_left() -> None:
    assert run(HARD, resume=run(HARD)[-1][1]) == []


def test_a_longer_run_continues_where_a_shorter_one_with_a_constant_rate_ended() -> None:
    short, long = (TrainConfig(model=SMALL, epochs=epochs) for epochs in (1, 3))
    assert is_equal(run(long)[1:], run(long, resume=run(short)[0][1]))


def test_a_state_asked_for_is_a_copy_with_the_history_so_far() -> None:
    states = [state for _, state in run(HARD)]
    assert [[metrics["epoch"] for metrics in state["history"]] for state in states] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 3, 4],
    ]
    assert not is_equal(states[0]["model"], states[1]["model"])


@pytest.mark.parametrize("model", [SMALL, CnnConfig(filters=8, batch_norm=True, head="gap")], ids=["plain", "norm"])
def test_one_batch_can_be_memorised(model: CnnConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    split = Split(
        images=torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8, generator=generator),
        labels=torch.randint(0, 2, (16,), dtype=torch.uint8, generator=generator),
        indices=torch.arange(16),
    )
    *_, last = train(TrainConfig(model=model, epochs=120, learning_rate=0.01), split, None, device=CPU)
    assert last.metrics["train_loss"] < 0.05
    assert last.metrics["train_accuracy"] == 1.0


def test_an_epoch_tells_all_metrics_and_without_validation_those_of_training() -> None:
    own = {"epoch", "train_loss", "train_accuracy", "learning_rate", "seconds", "images_per_second"}
    of_validation = {
        "loss",
        "accuracy",
        "precision",
        "recall",
        "f1",
        "auroc",
        "average_precision",
        "false_negative_rate",
        "false_positive_rate",
    }
    config = TrainConfig(model=SMALL, epochs=1)
    with_validation = next(train(config, draw_split(20), draw_split(10), device=CPU))
    without = next(train(config, draw_split(20), None, device=CPU))
    assert with_validation.metrics.keys() == own | of_validation
    assert without.metrics.keys() == own
    assert all(math.isfinite(value) for value in with_validation.metrics.values())
    assert is_equal(without.state()["model"], with_validation.state()["model"])


@pytest.mark.parametrize(("num", "batch_size", "num_steps"), [(70, 16, 4), (64, 16, 4), (10, 16, 1), (16, 1, 16)])
def test_partial_batches_are_dropped_unless_they_are_all_there_is(num: int, batch_size: int, num_steps: int) -> None:
    config = TrainConfig(model=SMALL, epochs=1, batch_size=batch_size)
    state = next(train(config, draw_split(num), None, device=CPU)).state()
    assert {int(slot["step"]) for slot in state["optimizer"]["state"].values()} == {num_steps}


def test_a_nan_loss_ends_the_training_with_its_epoch() -> None:
    state = run(HARD)[1][1]
    state["last"]["0.weight"].fill_(math.nan)
    with pytest.raises(TrainingError, match=r"^loss is nan in epoch 3$"):
        run(HARD, resume=state)


def test_a_learning_rate_that_blows_up_ends_the_training() -> None:
    config = TrainConfig(model=SMALL, epochs=5, batch_size=8, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"^loss is (nan|inf) in epoch 1$"):
        run(config)


def test_a_last_step_that_blows_up_is_noticed_in_validation() -> None:
    config = TrainConfig(model=SMALL, epochs=5, batch_size=70, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"^validation loss is (nan|inf) in epoch 1$"):
        run(config)


def test_a_split_without_images_is_an_input_error() -> None:
    with pytest.raises(InputError, match="holds 0 images"):
        next(train(TrainConfig(model=SMALL, epochs=1), draw_split(0, unused=4), None, device=CPU))


def test_no_epoch_is_trained_that_is_not_asked_for() -> None:
    epochs = train(TrainConfig(model=SMALL, epochs=10**9), draw_split(16), None, device=CPU)
    assert [epoch.number for epoch in itertools.islice(epochs, 3)] == [1, 2, 3]


def test_predictions_stand_in_the_splits_order_across_batches() -> None:
    split = draw_split(300, unused=40)
    model = build_model(HARD.model)
    logits = predict(model, split, device=CPU)
    with torch.inference_mode():
        expected = model.eval()(split.images[split.indices].permute(0, 3, 1, 2) / 255)
    assert (logits.dtype, logits.shape) == (torch.float32, (300,))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("flip_average", [False, True])
def test_the_model_of_a_state_predicts_what_validation_scored(ema_decay: float, flip_average: bool) -> None:
    metrics, state = run(
        dataclasses.replace(HARD, ema_decay=ema_decay, flip_average=flip_average, precision="float32")
    )[-1]
    model = build_model(HARD.model)
    model.load_state_dict(state["model"])
    validation = draw_split(30, seed=1)
    logits = predict(model, validation, device=CPU, flip_average=flip_average)
    loss = functional.binary_cross_entropy_with_logits(logits, validation.labels[validation.indices].float())
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)
    called = logits > 0
    assert (called == validation.labels[validation.indices]).double().mean().item() == metrics["accuracy"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_predictions_repeat_to_the_bit_where_that_is_asked_for(deterministic: bool) -> None:
    seen: list[bool] = []
    model = build_model(SMALL)
    model.register_forward_hook(lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    predict(model, draw_split(10), device=CPU, deterministic=deterministic)
    assert seen == [deterministic]
    assert not torch.are_deterministic_algorithms_enabled()


def test_averaged_predictions_are_the_mean_over_image_and_mirror_image() -> None:
    split = draw_split(40, unused=10)
    mirrored = dataclasses.replace(split, images=split.images.flip(2))
    model = build_model(HARD.model)
    plain, other = (predict(model, images, device=CPU) for images in (split, mirrored))
    assert not torch.allclose(plain, other)
    torch.testing.assert_close(predict(model, split, device=CPU, flip_average=True), (plain + other) / 2)


def test_averaging_leaves_the_weights_that_learn_alone_and_scores_their_average() -> None:
    config = dataclasses.replace(HARD, ema_decay=0.0)
    plain, averaged = run(config), run(HARD)
    for (one, without), (other, state) in zip(plain, averaged, strict=True):
        assert is_equal(without["model"], state["last"])
        assert is_equal(without["optimizer"], state["optimizer"])
        assert "last" not in without
        assert one["train_loss"] == other["train_loss"]
        assert one["loss"] != other["loss"]


def test_the_average_is_taken_after_every_step() -> None:
    rate: Any = {"optimizer": "sgd", "learning_rate": 0.1, "ema_decay": 0.8, "precision": "float32"}
    config = TrainConfig(model=SMALL, epochs=2, batch_size=16, **rate)
    split = draw_split(64)
    state = [epoch.state() for epoch in train(config, split, None, device=CPU)][-1]
    model = build_model(SMALL, seed=derive_seed(0, "weights"))
    reference = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    average, step = Average(model, decay=0.8), 0
    for epoch in (1, 2):
        order = torch.randperm(64, generator=torch.Generator().manual_seed(derive_seed(0, "shuffling", epoch)))
        for chosen in order.split(16):
            logits = model(split.images[chosen].permute(0, 3, 1, 2) / 255)
            reference.zero_grad()
            functional.binary_cross_entropy_with_logits(logits, split.labels[chosen].float()).backward()
            reference.step()
            average.update(step)
            step += 1
    for name, expected in average.model.state_dict().items():
        torch.testing.assert_close(state["model"][name], expected, rtol=1e-4, atol=1e-6)


def test_a_deterministic_run_is_the_same_run_and_the_caller_keeps_its_settings() -> None:
    free = run(dataclasses.replace(HARD, deterministic=False))
    strict = []
    for epoch in train(HARD, draw_split(70, unused=9), draw_split(30, seed=1), device=CPU):
        assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.deterministic
        strict.append((drop_times(epoch), epoch.state()))
    assert is_equal(free, strict)


def test_every_default_is_the_papers() -> None:
    config = TrainConfig(model=CnnConfig(), epochs=20)
    assert dataclasses.asdict(config) | {"model": None} == {
        "model": None,
        "epochs": 20,
        "seed": 0,
        "size": 32,
        "batch_size": 128,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "muon_learning_rate": 0.02,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_frac": 0.0,
        "flip": False,
        "crop_padding": 0,
        "cutout": 0,
        "label_smoothing": 0.0,
        "ema_decay": 0.0,
        "flip_average": False,
        "deterministic": False,
        "precision": "auto",
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", [HARD.model, ResNet50Config(stem="cifar"), ResNet50Config()])
def test_on_cuda_two_deterministic_runs_are_bitwise_equal_and_so_is_a_resumed_one(model: Any) -> None:
    config = dataclasses.replace(HARD, model=model, epochs=2)
    cuda, splits = torch.device("cuda"), (draw_split(70, unused=9), draw_split(30, seed=1))
    one, other = (
        [(drop_times(epoch), epoch.state()) for epoch in train(config, *splits, device=cuda)] for _ in range(2)
    )
    assert is_equal(one, other)
    resumed = train(config, *splits, device=cuda, resume=one[0][1])
    assert is_equal(one[1:], [(drop_times(epoch), epoch.state()) for epoch in resumed])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", [SMALL, ResNet50Config(stem="cifar")], ids=["cnn", "resnet50"])
def test_on_cuda_the_loop_does_what_it_does_on_the_cpu_within_bfloat16(model: Any) -> None:
    # All images are one batch, so that their order, which each device draws for itself, does not matter.
    config = TrainConfig(model=model, epochs=3, batch_size=64, optimizer="sgd", learning_rate=1e-3)
    cpu, cuda = (
        [epoch.metrics for epoch in train(config, draw_split(64), draw_split(32, seed=1), device=device)]
        for device in (CPU, torch.device("cuda"))
    )
    for one, other in zip(cpu, cuda, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=0.05, abs=0.01)
        assert other["loss"] == pytest.approx(one["loss"], rel=0.05, abs=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "model", [CnnConfig(), HARD.model, ResNet50Config(stem="cifar")], ids=["paper", "bn", "resnet"]
)
def test_on_cuda_logits_are_those_of_the_cpu_as_far_as_bfloat16_tells(model: Any) -> None:
    split = draw_split(64)
    trained = build_model(model, seed=0)
    cpu, cuda = (predict(trained, split, device=device, flip_average=True) for device in (CPU, torch.device("cuda")))
    assert cuda.dtype == torch.float32
    torch.testing.assert_close(cuda, cpu, rtol=0.03, atol=0.03 * cpu.abs().max().item())

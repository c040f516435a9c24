import itertools
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models import resnet50

from trainables.config import ARCHITECTURES, Architecture, Value, build_train_config, complete_params, list_rules
from trainables.errors import InputError
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model, count_parameters, restore_model
from trainables.models.resnet50.config import ResNet50Config

CNN_CORNERS = [
    {"num_blocks": blocks, "convs_per_block": convs, "kernel_size": kernel, "batch_norm": norm, "head": head, **first}
    for blocks, convs, kernel, norm, head, first in itertools.product(
        (1, 2, 5), (1, 2), (1, 7), (False, True), ("flatten", "gap"), ({}, {"whiten": True, "pool": "first"})
    )
]


def draw_images(num: int) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build_stock(num_classes: int = 1000) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return resnet50(num_classes=num_classes)


def test_the_default_cnn_is_the_papers_with_141345_parameters() -> None:
    assert count_parameters(build_model(CnnConfig())) == 141_345


def test_the_small_cnn_of_the_literature_has_287585_parameters() -> None:
    config = CnnConfig(num_blocks=3, convs_per_block=2, growth=2.0, batch_norm=True, head="gap", dense_layers=0)
    assert count_parameters(build_model(config)) == 287_585


def test_the_default_resnet50_is_the_papers_with_23510081_parameters() -> None:
    assert count_parameters(build_model(ResNet50Config())) == 23_510_081


def test_relu_behind_the_pooling_changes_neither_logits_nor_gradients() -> None:
    ours = build_model(CnnConfig())
    convs = [module for module in ours.modules() if isinstance(module, nn.Conv2d)]
    dense = [module for module in ours.modules() if isinstance(module, nn.Linear)]
    images = draw_images(16)
    maps = images
    for conv in convs:
        maps = torch.max_pool2d(torch.relu(conv(maps)), 2)
    expected = dense[1](torch.relu(dense[0](maps.flatten(1)))).flatten()
    logits = ours(images)
    assert torch.equal(logits, expected)
    gradients = torch.autograd.grad(logits.sum(), list(ours.parameters()))
    references = torch.autograd.grad(expected.sum(), list(ours.parameters()))
    assert all(torch.equal(*pair) for pair in zip(gradients, references, strict=True))


@pytest.mark.parametrize("corner", CNN_CORNERS, ids=lambda corner: "-".join(map(str, corner.values())))
def test_every_corner_of_the_cnn_gives_one_logit_per_image(corner: dict[str, object]) -> None:
    model = build_model(CnnConfig(filters=4, growth=1.5, dropout=0.5, **corner))
    logits = model(draw_images(2))
    logits.sum().backward()
    assert logits.shape == (2,)
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_whitened_patches_are_uncorrelated_and_of_equal_variance() -> None:
    config = CnnConfig(whiten=True, filters=4)
    model = build_model(config)
    smooth = nn.functional.interpolate(torch.rand(64, 3, 9, 9), size=32, mode="bilinear")
    config.fit(model, smooth)
    maps = model[0](smooth)[:, :, 1:-1, 1:-1].transpose(0, 1).flatten(1)
    assert torch.equal(model[0].weight[12:], -model[0].weight[:12])
    correlations = torch.corrcoef(maps[:12])
    torch.testing.assert_close(correlations, torch.eye(12), rtol=0.0, atol=1e-3)
    assert maps.var(1).max() < 1.0  # 1 but for what is added to small variances


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation returns."""

    num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [each.untyped_storage().nbytes() for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        self.num_bytes = max(self.num_bytes, *sizes, 0)
        return result


@pytest.mark.parametrize(("num", "size"), [(1000, 32), (700, 64), (45, 256)])
def test_whitening_needs_no_more_memory_for_large_images_and_gives_the_same_filters(num: int, size: int) -> None:
    images = torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0)).cumsum(3) / size
    patches = nn.functional.unfold(images.double(), 2).transpose(1, 2).flatten(0, 1)
    variances, directions = torch.linalg.eigh(torch.cov(patches.T))
    expected = (directions / (variances + 5e-4).sqrt()).T.float()
    config = CnnConfig(whiten=True, filters=4)
    model = build_model(config, size=size)
    with LargestTensor() as largest:
        config.fit(model, images)
    filters = model[0].weight[:12].detach().flatten(1)
    if size == 32:
        assert torch.equal(filters, expected)
    torch.testing.assert_close(filters.T @ filters, expected.T @ expected)  # whatever the signs of the filters
    assert largest.num_bytes <= 12 * 8 * 1000 * 32**2


def test_only_the_bias_of_the_whitening_learns_and_a_trained_model_is_restored_without_images() -> None:
    config = CnnConfig(whiten=True, filters=4)
    model = build_model(config)
    config.fit(model, draw_images(4))
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == ["0.weight"]
    restored = restore_model(config, model.state_dict()).eval()
    assert torch.equal(restored(draw_images(2)), model.eval()(draw_images(2)))


@pytest.mark.parametrize(("pool", "sides"), [("last", [32, 32, 16, 16]), ("first", [32, 16, 16, 8])])
def test_a_block_is_pooled_behind_its_first_or_its_last_convolution(
    pool: Literal["last", "first"], sides: list[int]
) -> None:
    model = build_model(CnnConfig(filters=4, convs_per_block=2, batch_norm=True, pool=pool))
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[2]))
    model(draw_images(2))
    assert seen == sides


@pytest.mark.parametrize("config", [CnnConfig(), ResNet50Config(hidden_layers=1)], ids=["cnn", "resnet50"])
def test_logits_are_not_rounded_under_autocast(config: Architecture) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = build_model(config)(draw_images(8))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("dense_layers", [0, 3])
def test_the_head_has_as_many_hidden_layers_as_asked(dense_layers: int) -> None:
    model = build_model(CnnConfig(dense_layers=dense_layers))
    assert sum(isinstance(module, nn.Linear) for module in model.modules()) == dense_layers + 1


@pytest.mark.parametrize("config", [CnnConfig(), ResNet50Config()], ids=["cnn", "resnet50"])
def test_weights_follow_from_the_seed_alone_and_the_callers_generator_is_untouched(config: Architecture) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(config, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = build_model(config, seed=3), build_model(config, seed=4)
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 1), ("half", 2), ("cifar", 4)])
def test_the_stem_decides_the_size_of_the_last_maps(stem: str, side: int) -> None:
    model = build_model(ResNet50Config(stem=stem)).eval()
    shapes: list[torch.Size] = []
    model.layer4.register_forward_hook(lambda _module, _inputs, maps: shapes.append(maps.shape))
    with torch.inference_mode():
        assert model(draw_images(1)).shape == (1,)
    assert shapes == [(1, 2048, side, side)]


@pytest.mark.parametrize("input_size", [64, 128])
def test_images_are_upsampled_inside_the_model(input_size: int) -> None:
    model = build_model(ResNet50Config(input_size=input_size)).eval()
    shapes: list[torch.Size] = []
    model.conv1.register_forward_pre_hook(lambda _module, inputs: shapes.append(inputs[0].shape))
    with torch.inference_mode():
        model(draw_images(1))
    assert shapes == [(1, 3, input_size, input_size)]


STAGES = [{"layer4"}, {"layer3"}, {"layer2"}, {"layer1"}, {"conv1", "bn1"}]


@pytest.mark.parametrize(
    ("stem", "is_loaded", "trainable_stages", "learning"),
    [
        ("imagenet", True, 0, []),
        ("imagenet", True, 2, STAGES[:2]),
        ("imagenet", True, 5, STAGES),
        ("cifar", True, 0, STAGES[4:]),
        ("half", True, 0, STAGES[4:]),
        ("imagenet", False, 0, STAGES),
        ("cifar", False, 2, STAGES),
    ],
)
def test_loaded_stages_that_are_frozen_neither_learn_nor_renew_their_statistics(
    resnet50_weights: Path, stem: str, is_loaded: bool, trainable_stages: int, learning: list[set[str]]
) -> None:
    weights = str(resnet50_weights) if is_loaded else "none"
    config = ResNet50Config(stem=stem, weights=weights, trainable_stages=trainable_stages, hidden_layers=1, dropout=0.5)
    model = build_model(config).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(draw_images(2)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter += 1.0
    moved = {name.partition(".")[0] for name, old in before.items() if not torch.equal(model.state_dict()[name], old)}
    assert moved == {"fc"}.union(*learning)


@pytest.mark.parametrize(("stem", "num_fresh"), [("imagenet", 2), ("half", 3), ("cifar", 3)])
def test_a_state_dict_fills_all_but_the_head_and_a_new_stem(tmp_path: Path, stem: str, num_fresh: int) -> None:
    stock = build_stock().state_dict()
    torch.save(stock, tmp_path / "stock.pt")
    model = build_model(ResNet50Config(stem=stem, weights=str(tmp_path / "stock.pt")))
    ours = model.state_dict()
    same = [name for name in stock if name in ours and torch.equal(stock[name], ours[name])]
    assert len(same) == len(stock) - num_fresh
    assert model(draw_images(2)).shape == (2,)


def test_loaded_weights_see_images_normalised_as_torchvision_trained_them(tmp_path: Path) -> None:
    stock = build_stock(num_classes=1).eval()
    torch.save(stock.state_dict(), tmp_path / "stock.pt")
    model = build_model(ResNet50Config(weights=str(tmp_path / "stock.pt"))).eval()
    model.fc[1].load_state_dict(stock.fc.state_dict())
    images = draw_images(2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = stock((images - mean.view(3, 1, 1)) / std.view(3, 1, 1)).flatten()
        torch.testing.assert_close(model(images), expected)


def test_weights_that_cannot_be_downloaded_name_the_two_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(InputError, match=r"(?s)cannot be fetched.*`weights: none`.*path of a state dict"):
        build_model(ResNet50Config(weights="imagenet"))


def test_weights_that_do_not_exist_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pt': no such file"):
        build_model(ResNet50Config(weights=str(tmp_path / "nowhere.pt")))


def test_weights_of_another_model_are_an_input_error(tmp_path: Path) -> None:
    torch.save(build_model(CnnConfig()).state_dict(), tmp_path / "cnn.pt")
    with pytest.raises(InputError, match=r"cnn\.pt': \d+ tensors are missing, unknown or of another shape"):
        build_model(ResNet50Config(weights=str(tmp_path / "cnn.pt")))


@pytest.mark.parametrize("content", [b"", b"not a state dict"])
def test_weights_that_are_no_tensors_are_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"not a file of tensors"):
        build_model(ResNet50Config(weights=str(tmp_path / "weights.pt")))


def test_weights_that_are_no_mapping_are_an_input_error(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"not a state dict"):
        build_model(ResNet50Config(weights=str(tmp_path / "list.pt")))


@pytest.mark.parametrize("config", [CnnConfig(), ResNet50Config()], ids=["cnn", "resnet50"])
def test_models_with_random_weights_download_nothing(config: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *given, **known: asked.append((given, known)))
    build_model(config)
    assert asked == []


OTHERS: dict[str, Value] = {
    "growth": 2.0,
    "head": "gap",
    "dense_units": 8,
    "hidden_units": 8,
    "trainable_stages": 1,
    "muon_learning_rate": 0.1,
}
"""A value other than the default of each parameter that changes nothing somewhere."""


@pytest.mark.parametrize(
    ("architecture", "reason", "name"),
    [
        (architecture, reason, name)
        for architecture in ARCHITECTURES
        for reason, names in list_rules(architecture, 32).items()
        for name in names
    ],
)
def test_a_parameter_that_is_said_to_change_nothing_changes_nothing(
    architecture: str, reason: tuple[str, Value], name: str
) -> None:
    params = dict([reason])
    changed = params | {name: OTHERS[name]}
    assert complete_params(architecture, changed) == complete_params(architecture, params)
    first, second = (
        build_model(build_train_config(architecture, each, epochs=1, seed=0).model).eval() for each in (params, changed)
    )
    assert [weight.requires_grad for weight in first.parameters()] == [one.requires_grad for one in second.parameters()]
    weights = (
        each.state_dict().values() for each in (first, second)
    )  # of which a layer without weights moves the names
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    assert torch.equal(first(draw_images(2)), second(draw_images(2)))
    deciding: dict[str, Value] = {"weights": "imagenet", "optimizer": "muon"}
    params = {reason[0]: deciding.get(reason[0], 2)}
    assert complete_params(architecture, params | {name: OTHERS[name]})[name] == OTHERS[name]


def test_the_head_has_an_effect_where_five_blocks_leave_more_than_one_pixel() -> None:
    params: dict[str, Value] = {"num_blocks": 5, "head": "gap"}
    assert complete_params("cnn", params, 32)["head"] == "flatten"
    assert complete_params("cnn", params, 64)["head"] == "gap"
    assert complete_params("cnn", params | {"whiten": True}, 63)["head"] == "gap", "whitening makes it a pixel larger"

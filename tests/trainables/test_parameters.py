"""Signatures as schemas, of architectures and of training functions."""

import dataclasses
from typing import Any, Literal

import pytest
import torch
from torch import nn

from search.config.space_checks import check_space
from trainables.config import build_train_config, check_architecture, list_defaults, list_values
from trainables.errors import InputError
from trainables.models.model import check_model
from trainables.names import IMPORTED
from trainables.parameters import list_parameters
from trainables.splits import Split
from trainables.train import train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """An architecture with one parameter of each type."""

    width: int = 4
    scale: float = 1
    bias: bool = True
    kind: Literal["flat", "mean"] = "flat"
    name: str = "x"
    output: str = "(N,)"

    def build(self, *, size: int) -> nn.Module:
        layers = [nn.Flatten(), nn.Linear(3 * size * size, 1, bias=self.bias)]
        return nn.Sequential(*layers, *([nn.Flatten(0)] if self.output == "(N,)" else []))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(IMPORTED, "mine:Own", Own)
    return "mine:Own"


def test_the_fields_of_an_architecture_are_its_parameters() -> None:
    found = list_parameters(Own)
    assert {name: each.default for name, each in found.items()} == dataclasses.asdict(Own())
    assert (found["width"].hint, found["scale"].hint, found["kind"].hint) == (int, float, Literal["flat", "mean"])


def test_an_own_architecture_is_trained_like_ours(own: str) -> None:
    check_architecture(own, Own)
    config = build_train_config(own, {"width": 8, "batch_size": 4}, epochs=2, seed=1, size=64)
    assert (config.model, config.size) == (Own(width=8), 64)
    assert list_values(config) == list_defaults(own) | {"width": 8, "batch_size": 4}
    assert config.model.build(size=64)(torch.zeros(2, 3, 64, 64)).shape == (2,)


def test_a_field_that_an_architecture_computes_is_no_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Derived(Own):
        heads: int = dataclasses.field(init=False, default=4)

    monkeypatch.setitem(IMPORTED, "mine:Derived", Derived)
    config = build_train_config("mine:Derived", {"width": 8}, epochs=2, seed=1)
    assert build_train_config("mine:Derived", list_values(config), epochs=2, seed=1) == config


def test_what_an_architecture_draws_follows_from_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawing(Own):
        def load_weights(self, model: nn.Module) -> None:
            model.append(nn.Identity()).register_buffer("loaded", torch.rand(1))

        def fit(self, model: nn.Module, images: torch.Tensor) -> None:
            model.register_buffer("fitted", torch.rand(1) * images.mean())

    monkeypatch.setitem(IMPORTED, "mine:Drawing", Drawing)
    images = torch.full((16, 32, 32, 3), 128, dtype=torch.uint8)
    split = Split(images=images, labels=torch.tensor([0, 1] * 8, dtype=torch.uint8), indices=torch.arange(16))
    found = []
    for disturbance, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(disturbance)
        config = build_train_config("mine:Drawing", {"batch_size": 8}, epochs=1, seed=seed)
        [epoch] = train(config, split, None, device=torch.device("cpu"))
        found.append([float(epoch.state()["model"][name]) for name in ("loaded", "fitted")])
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[1], found[2], strict=True))


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ({("depht", 0): ("width",)}, "without_effect names depht, which is no parameter of it"),
        ({("width", 0): ("flipp",)}, "without_effect names flipp, which is no parameter of it"),
        ({"width": ("scale",)}, r"without_effect\(32\) fails \(ValueError: .*\); it is a static method that returns"),
        (None, r"without_effect\(32\) fails \(TypeError: .*\); it is a static method that returns"),
    ],
)
def test_rules_that_name_no_parameter_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, rules: Any, problem: str
) -> None:
    class Ruled(Own):
        @staticmethod
        def without_effect(size: int) -> Any:
            assert size == 32
            return rules if rules is not None else dict(rules)

    monkeypatch.setitem(IMPORTED, "mine:Ruled", Ruled)
    with pytest.raises(InputError, match=f"^mine:Ruled: {problem}"):
        check_space({"Ruled": {"scale": {"low": 0.5, "high": 1.0}}}, ["mine:Ruled"])
    monkeypatch.setattr(Ruled, "without_effect", staticmethod(lambda _: {("width", 0): ("scale", "flip")}))
    check_space({}, ["mine:Ruled"])


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(int, "three"), (list, 1), (int, dataclasses.MISSING), (Any, 1), (Literal["a", "b"], "c"), (bool, 1), (int, True)],
)
def test_a_parameter_without_a_known_type_or_a_default_of_it_is_refused(annotation: Any, default: Any) -> None:
    field = dataclasses.field() if default is dataclasses.MISSING else dataclasses.field(default=default)
    kind = dataclasses.make_dataclass("Kind", [("depth", annotation, field)], frozen=True)
    with pytest.raises(InputError, match=r"^Kind: give its parameter depth a type \(bool, int, float, str or"):
        list_parameters(kind)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (object, "is no frozen dataclass"),
        (print, "is no frozen dataclass"),
        (dataclasses.make_dataclass("Kind", [("depth", int, 1)]), "is no frozen dataclass"),
        (dataclasses.make_dataclass("Kind", [("depth", int, 1)], frozen=True), "has no build"),
        (
            dataclasses.make_dataclass("Kind", [("batch_size", int, 1)], frozen=True, namespace={"build": Own.build}),
            "has the parameter batch_size, which every training has",
        ),
    ],
)
def test_a_class_that_is_no_architecture_is_refused_in_a_sentence(kind: Any, problem: str) -> None:
    with pytest.raises(InputError, match=f"^mine:Kind {problem}"):
        check_architecture("mine:Kind", kind)


def test_a_model_that_gives_no_logit_for_each_image_is_refused(own: str) -> None:
    check_model(own, build_train_config(own, {}, epochs=1, seed=0), dict)
    with pytest.raises(InputError, match=r"^mine:Own: expected logits of shape \(N,\) for N images, not \(2, 1\)"):
        check_model(own, build_train_config(own, {"output": "(N, 1)"}, epochs=1, seed=0), dict)


def test_a_model_that_drops_the_axis_of_a_single_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Squeeze(nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return logits.squeeze()

    class Careless(Own):
        def build(self, *, size: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 1), Squeeze())

    monkeypatch.setitem(IMPORTED, "mine:Careless", Careless)
    with pytest.raises(InputError, match=r"not \(\) for 1: use .squeeze\(1\)"):
        check_model("mine:Careless", build_train_config("mine:Careless", {}, epochs=1, seed=0), dict)


def test_code_that_was_not_imported_has_no_known_parameters() -> None:
    assert list_defaults("nowhere:Own") == {}
    with pytest.raises(InputError, match="name its folder with --code"):
        build_train_config("nowhere:Own", {}, epochs=1, seed=0)


def test_a_type_that_cannot_be_resolved_is_refused() -> None:
    def walk(run: "Nowhere", step: float = 1.0) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    with pytest.raises(InputError, match="a type of its parameters cannot be resolved"):
        list_parameters(walk)


def test_an_error_of_an_own_class_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Strict:
        depth: int = 1

        def __post_init__(self) -> None:
            if self.depth > 2:
                raise ValueError("too deep")

    monkeypatch.setitem(IMPORTED, "mine:Strict", Strict)
    with pytest.raises(InputError, match=r"^mine:Strict refuses \{'depth': 3\}: ValueError: too deep"):
        build_train_config("mine:Strict", {"depth": 3}, epochs=1, seed=0)

"""The recorded step, on a CPU with a stand-in for CUDA graphs, and on CUDA itself where there is one."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from trainables.config import OPTIMIZER_NAMES, WITHOUT_GRAPH, TrainConfig
from trainables.models.cnn.config import CnnConfig
from trainables.models.resnet50.config import ResNet50Config
from trainables.names import IMPORTED
from trainables.splits import Split
from trainables.step import STEPS, RecordedStep, Step, _get_stream
from trainables.train import train

CPU = torch.device("cpu")
EXACT = TrainConfig(
    model=CnnConfig(filters=4, growth=2.0, batch_norm=True, dense_units=8, dropout=0.5),
    epochs=3,
    seed=3,
    batch_size=16,
    learning_rate=2**-8,
    muon_learning_rate=2**-6,
    weight_decay=0.1,
    flip=True,
    crop_padding=4,
    cutout=8,
    label_smoothing=0.1,
    ema_decay=0.9,
    flip_average=True,
    deterministic=True,
)
"""All that a step can hold; its rate is the same number in float32, in which a graph reads it, and in float64."""
TIMES = ("seconds", "images_per_second", "peak_memory_bytes")


class Recorder(TorchDispatchMode):
    """Notes the operations of a block and undoes what they did, as if they had not run."""

    def __init__(self, graph: "Graph") -> None:
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (generator := kwargs.get("generator")) is not None:  # another object for the same generator
            seeds = [known.initial_seed() for known in self.graph.generators]
            assert generator.initial_seed() in seeds, "a graph must know whose draws it holds"
        given = list_tensors((args, kwargs))
        for tensor in given:
            address = tensor.untyped_storage().data_ptr()
            if address not in self.made | self.before.keys():
                self.before[address] = tensor, tensor.clone()
        result = func(*args, **kwargs)
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        fresh = [tensor for tensor in list_tensors(result) if tensor.untyped_storage().data_ptr() not in known]
        self.made |= {tensor.untyped_storage().data_ptr() for tensor in fresh}
        if fresh or func._schema.is_mutable:
            self.graph.operations.append(tree_map_only(Tensor, Tensor.detach, (func, args, kwargs, result)))
        return result

    def undo(self) -> None:
        for tensor, copy in self.before.values():
            tensor.copy_(copy)


class Graph:
    """Runs operations again on the memory they were recorded with, as a CUDA graph does."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.generators: list[torch.Generator] = [torch.default_generator]
        self.replays = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, recorded in self.operations:
            result = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(list_tensors(recorded), list_tensors(result), strict=True):
                    old.copy_(new)


def list_tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextlib.contextmanager
def record(graph: Graph, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
    assert (type(stream), capture_error_mode) == (Stream, "thread_local")
    assert stream is Stream.current, "a recording happens on the stream of the steps before it"
    states = [generator.get_state() for generator in graph.generators]
    recorder = Recorder(graph)
    with recorder:
        yield
    with torch.no_grad():
        recorder.undo()
    for generator, state in zip(graph.generators, states, strict=True):
        generator.set_state(state)


class Stream:
    """Notes who waits for whom."""

    current: "Stream"

    def __init__(self, _device: torch.device | None = None) -> None:
        self.waited: list[Stream] = []

    def wait_stream(self, other: "Stream") -> None:
        self.waited.append(other)


@contextlib.contextmanager
def enter(stream: Stream) -> Iterator[None]:
    before, Stream.current = Stream.current, stream
    yield
    Stream.current = before


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Graph]]:
    """Let steps on the CPU be recorded; the list holds the graphs made."""
    made: list[Graph] = []

    def build() -> Graph:
        made.append(Graph())
        return made[-1]

    Stream.current = Stream()
    _get_stream.cache_clear()
    for name, stand_in in {
        "CUDAGraph": build,
        "graph": record,
        "Stream": Stream,
        "stream": enter,
        "current_stream": lambda _device: Stream.current,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setitem(STEPS, "cpu", RecordedStep)
    yield made
    _get_stream.cache_clear()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def draw_split(num: int, *, seed: int = 0) -> Split:
    """Noise whose REAL images are a little brighter."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num).remainder(2).to(torch.uint8)
    images = torch.randint(0, 200, (num, 32, 32, 3), generator=generator) + 40 * labels.view(-1, 1, 1, 1)
    return Split(images=images.to(torch.uint8), labels=labels, indices=torch.arange(num))


def run(config: TrainConfig, device: torch.device, resume: dict[str, Any] | None = None) -> list[Any]:
    """State, history without times, of each epoch."""
    states = []
    for epoch in train(config, draw_split(90), draw_split(30, seed=1), device=device, resume=resume):
        state = epoch.state()
        state["history"] = [{k: v for k, v in row.items() if k not in TIMES} for row in state["history"]]
        states.append(state)
    return states


def assert_equal(one: Any, other: Any) -> None:
    """Require two states to be the same to the bit; the form of the optimizer's rate does not count."""
    for name in ("epoch", "history", *(name for name in ("model", "last") if name in one)):
        left, right = tree_leaves(one[name]), tree_leaves(other[name])
        assert all(map(is_same, left, right)), name
        assert len(left) == len(right)
    left, right = (tree_leaves(state["optimizer"]["state"]) for state in (one, other))
    assert len(left) == len(right) > 0
    assert all(map(is_same, left, right)), "optimizer"


def is_same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


MODELS = {
    "all": EXACT.model,
    "one filter": CnnConfig(filters=1, kernel_size=1, convs_per_block=2, dense_units=4),
    "gap": CnnConfig(filters=4, head="gap", dense_layers=0),
    "whitened": CnnConfig(filters=4, convs_per_block=2, batch_norm=True, whiten=True, pool="first"),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_a_replayed_training_equals_the_plain_one(
    model: CnnConfig, optimizer: Any, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(EXACT, model=model, optimizer=optimizer)
    replayed = run(config, CPU)
    assert [graph.replays for graph in graphs] == [3 * 5]
    monkeypatch.setitem(STEPS, "cpu", Step)
    for one, other in itertools.zip_longest(replayed, run(config, CPU)):
        assert_equal(one, other)


def test_validation_leaves_the_weights_where_the_recorded_step_reads_them(graphs: list[Graph]) -> None:
    """A weight of shape (N, 1, 1, 1) is copied when it is put into the order of channels it is already in."""
    config = dataclasses.replace(EXACT, model=MODELS["one filter"], ema_decay=0.0)
    epochs = train(config, draw_split(90), draw_split(30), device=CPU)
    first, second = (next(epochs).state()["model"] for _ in range(2))
    assert len(graphs) == 1
    assert not any(torch.equal(first[name], second[name]) for name in first if name.endswith("weight"))


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
@pytest.mark.parametrize("cut", [1, 2])
def test_a_replayed_training_resumes_to_the_bit(cut: int, optimizer: Any, graphs: list[Graph]) -> None:
    config = dataclasses.replace(EXACT, optimizer=optimizer, schedule="one_cycle", warmup_frac=0.3)
    straight = run(config, CPU)
    resumed = run(config, CPU, resume=straight[cut - 1])
    assert [graph.replays for graph in graphs] == [3 * 5, (3 - cut) * 5]
    for one, other in itertools.zip_longest(straight[cut:], resumed):
        assert_equal(one, other)


def test_a_replayed_step_follows_the_schedule(graphs: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(EXACT, ema_decay=0.0, schedule="one_cycle", warmup_frac=0.3)
    replayed = run(config, CPU)[-1]
    monkeypatch.setitem(STEPS, "cpu", Step)
    plain = run(config, CPU)[-1]
    assert len(graphs) == 1
    for name, expected in plain["model"].items():
        torch.testing.assert_close(replayed["model"][name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_training_continues_from_the_state_of_the_other_kind_of_step(
    optimizer: Any, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(EXACT, optimizer=optimizer)
    replayed = run(config, CPU)
    monkeypatch.setitem(STEPS, "cpu", Step)
    plain = run(config, CPU, resume=replayed[0])
    for group in plain[-1]["optimizer"]["param_groups"]:
        assert (type(group["lr"]), group.get("capturable", False)) == (float, False)
    monkeypatch.setitem(STEPS, "cpu", RecordedStep)
    for one, other in itertools.zip_longest(plain[1:], run(config, CPU, resume=plain[0])):
        assert_equal(one, other)
    assert_equal(plain[-1], replayed[-1])
    assert len(graphs) == 2


@contextlib.contextmanager
def fail_to_end(graph: Graph, **options: Any) -> Iterator[None]:
    """Record, then refuse the recording as CUDA does."""
    with record(graph, **options):
        yield
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError("no graphs here")


@pytest.mark.parametrize(
    ("name", "stand_in", "reason"),
    [
        ("graph", fail_to_end, "RuntimeError: CUDA error: operation not permitted when stream is capturing"),
        ("CUDAGraph", refuse, "OSError: no graphs here"),
    ],
)
def test_a_training_whose_step_cannot_be_recorded_continues_without_a_graph(
    name: str, stand_in: Any, reason: str, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = run(EXACT, CPU)
    monkeypatch.setattr(torch.cuda, name, stand_in)
    for one, other in itertools.zip_longest(replayed, run(EXACT, CPU)):
        assert_equal(one, other)
    assert len(graphs) == (2 if name == "graph" else 1)
    epochs = list(train(EXACT, draw_split(90), None, device=CPU, resume=replayed[0]))
    assert {epoch.remark for epoch in epochs} == {WITHOUT_GRAPH + reason}
    assert [graph.replays for graph in graphs if graph.replays] == [3 * 5]


class Counting(torch.optim.Adam):
    """Keeps numbers that are no tensors, on which its updates depend."""

    def __init__(self, params: Any, *, lr: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.param_groups[0]["count"] = 0

    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 PyTorch's name
        for group in self.param_groups:
            assert (type(group["lr"]), group["capturable"]) == (float, False)
            group["count"] += 1
            for weight in group["params"]:
                number = self.state[weight]["step"] = self.state[weight].get("step", 0) + 1
                weight.data -= group["lr"] / (number + group["count"]) * weight.grad


def test_an_optimizer_of_the_user_trains_without_a_graph_and_the_reason_is_said(
    graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IMPORTED, "mine:Counting", Counting)
    config = dataclasses.replace(EXACT, optimizer="mine:Counting")
    states = run(config, CPU)
    epochs = list(train(config, draw_split(90), None, device=CPU, resume=states[0]))
    assert {epoch.remark for epoch in epochs} == {f"{WITHOUT_GRAPH}an optimizer of your own"}
    assert not graphs
    monkeypatch.setitem(STEPS, "cpu", Step)
    for one, other in itertools.zip_longest(states, run(config, CPU)):
        assert_equal(one, other)
        assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]


def test_the_first_steps_of_a_training_fail_as_all_others_would(
    graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Conv2d, "forward", refuse)
    with pytest.raises(OSError, match="no graphs here"):
        run(EXACT, CPU)
    assert not graphs


def test_the_callers_stream_and_generator_wait_and_stay(graphs: list[Graph]) -> None:
    outside, before = Stream.current, torch.get_rng_state()
    for number, _ in enumerate(train(EXACT, draw_split(90), None, device=CPU), start=1):
        assert Stream.current is outside
        assert len(outside.waited) == number
        assert torch.equal(torch.get_rng_state(), before)
    [side] = set(outside.waited)
    assert side.waited == [outside] * 3
    assert len(graphs) == 1


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA_MODELS: dict[str, Any] = {
    "all": EXACT.model,
    "paper": CnnConfig(),
    "resnet50": ResNet50Config(stem="cifar", hidden_layers=1, dropout=0.2),
    "large": ResNet50Config(input_size=64),
}


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_frozen_stages_stay_in_a_replayed_training(
    resnet50_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(EXACT, model=ResNet50Config(weights=str(resnet50_weights), trainable_stages=1))
    replayed = run(config, torch.device("cuda"))
    monkeypatch.setitem(STEPS, "cuda", Step)
    for one, other in itertools.zip_longest(replayed, run(config, torch.device("cuda"))):
        assert_equal(one, other)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
@pytest.mark.parametrize("model", CUDA_MODELS.values(), ids=CUDA_MODELS.keys())
def test_on_cuda_a_replayed_training_equals_the_plain_one(
    model: Any, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, cuda = dataclasses.replace(EXACT, model=model, optimizer=optimizer), torch.device("cuda")
    replayed = run(config, cuda)
    monkeypatch.setitem(STEPS, "cuda", Step)
    for one, other in itertools.zip_longest(replayed, run(config, cuda)):
        assert_equal(one, other)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("model", [EXACT.model, CUDA_MODELS["resnet50"]], ids=["cnn", "resnet50"])
def test_on_cuda_a_replayed_training_resumes_to_the_bit(model: Any, cut: int, optimizer: Any) -> None:
    config = dataclasses.replace(EXACT, model=model, optimizer=optimizer, schedule="one_cycle", warmup_frac=0.3)
    straight = run(config, torch.device("cuda"))
    for one, other in itertools.zip_longest(straight[cut:], run(config, torch.device("cuda"), straight[cut - 1])):
        assert_equal(one, other)


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_every_epoch_is_launched_as_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    replays: list[None] = []
    replay: Callable[[Any], None] = torch.cuda.CUDAGraph.replay

    def count(graph: torch.cuda.CUDAGraph) -> None:
        replays.append(None)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", count)
    run(EXACT, torch.device("cuda"))
    assert len(replays) == 3 * 5


class Mine(CnnConfig):
    """An architecture of the user."""


def test_an_architecture_of_the_user_trains_without_a_graph_and_the_reason_is_said(graphs: list[Graph]) -> None:
    mine = dataclasses.replace(EXACT, model=Mine(**dataclasses.asdict(EXACT.model)))
    epochs = list(train(mine, draw_split(90), None, device=CPU))
    assert {epoch.remark for epoch in epochs} == {f"{WITHOUT_GRAPH}an architecture of your own"}
    assert not graphs
    assert_equal(run(mine, CPU)[-1], run(EXACT, CPU)[-1])
    assert len(graphs) == 1

"""One training step; on CUDA it is recorded once as a graph, which each step then launches."""

import contextlib
import copy
import functools
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.augment import crop, cutout, flip, to_float
from trainables.config import ARCHITECTURES, OPTIMIZER_NAMES, WITHOUT_GRAPH, TrainConfig
from trainables.optim import set_capturable
from trainables.runtime import autocast, seed_block
from trainables.seed import derive_seed
from trainables.splits import Split

WARM_UP = 3
"""Steps before a recording, in which libraries load and pick algorithms. Source: PyTorch's notes on CUDA graphs."""


class Step:
    """A training step, and sums over an epoch's steps. No method waits for the device."""

    remark = ""
    """Text that a record adds to the device's name: why steps run without a CUDA graph on a device that has them."""

    def __init__(self, config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer, split: Split) -> None:
        """Prepare for training.

        Args:
            config: The training.
            model: On its device, with the initial weights; its tensors must stay at their addresses.
            optimizer: Of the model, with its initial state.
            split: Training images, on the model's device.
        """
        device = split.images.device
        self._config, self._model, self._optimizer, self._split = config, model, optimizer, split
        self._augmentation = torch.Generator(device)
        self.batch_size = min(config.batch_size, len(split))
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.num_correct = torch.zeros((), dtype=torch.int64, device=device)
        set_capturable(optimizer, False)

    @contextlib.contextmanager
    def epoch(self, number: int) -> Iterator[None]:
        """Run the steps of an epoch in this block: sums start at zero, random draws depend on seed and epoch alone."""
        seed = self._config.seed
        self._model.train()
        with seed_block(derive_seed(seed, "dropout", number), self._split.images.device):
            self._augmentation.manual_seed(derive_seed(seed, "augmentation", number))
            self.loss_sum.zero_()
            self.num_correct.zero_()
            yield

    def run(self, batch: Tensor) -> None:
        """Train on the images with the indices `batch` (batch_size,) int64."""
        config, split = self._config, self._split
        images = _augment(split.images.index_select(0, batch), config, self._augmentation)
        labels = _smooth(split.labels.index_select(0, batch).float(), config.label_smoothing)
        with autocast(images.device, config.precision):
            logits = self._model(to_float(images)).float()
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.loss_sum += loss.detach()
        self.num_correct += ((logits > 0) == (labels > 0.5)).sum()


class RecordedStep(Step):
    """A step recorded as a CUDA graph, because a small model's kernels take longer to launch than to run.

    A graph reads and writes fixed addresses, so each batch is copied to the address of the recorded one. All steps are
    replays, and recording restores weights and optimizer, so a resumed training is equal to the bit. If the recording
    fails, all steps run one kernel at a time, with the same results. So do those of an architecture or optimizer of the
    user: a graph would repeat the values that their Python code had, and only tensors can be restored.
    """

    def __init__(self, config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer, split: Split) -> None:
        """Prepare as a `Step` does."""
        super().__init__(config, model, optimizer, split)
        device = split.images.device
        self._batch = torch.zeros(self.batch_size, dtype=torch.int64, device=device)
        # Autograd remembers the stream of a weight's first use, so all steps must run on the recording stream.
        self._stream = _get_stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        if config.optimizer not in OPTIMIZER_NAMES:
            self.remark = f"{WITHOUT_GRAPH}an optimizer of your own"
        elif type(config.model) not in ARCHITECTURES.values():
            self.remark = f"{WITHOUT_GRAPH}an architecture of your own"
        else:
            set_capturable(optimizer, True)

    @contextlib.contextmanager
    def epoch(self, number: int) -> Iterator[None]:
        """Run the steps of an epoch in this block, in order with the work of the caller's stream before and after."""
        outside = torch.cuda.current_stream(self._split.images.device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                if self._graph is None and not self.remark:
                    self._record()
                with super().epoch(number):
                    yield
        finally:
            outside.wait_stream(self._stream)

    def run(self, batch: Tensor) -> None:
        """Train on the images with the indices `batch` (batch_size,) int64."""
        if self._graph is None:
            super().run(batch)
        else:
            self._batch.copy_(batch)
            self._graph.replay()

    def _record(self) -> None:
        """Record the step; if recording fails, keep the reason. An error of the steps themselves is raised."""
        with super().epoch(number=0):
            self._warm_up()
            try:
                graph = torch.cuda.CUDAGraph()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # newer PyTorch registers the generator itself, with a warning
                    graph.register_generator_state(self._augmentation)
                # Other threads may use CUDA during the recording.
                with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                    super().run(self._batch)
            except Exception as error:  # noqa: BLE001 whatever fails, the training continues without a graph
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                self.remark = f"{WITHOUT_GRAPH}{reason[:200]}"
                self._renew_generators()
            else:
                self._graph = graph

    def _renew_generators(self) -> None:
        """Replace the generators' states, which a failed recording leaves in recording mode; each epoch seeds them."""
        device = self._split.images.device
        self._augmentation = torch.Generator(device)
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].graphsafe_set_state(torch.Generator(device).graphsafe_get_state())

    def _warm_up(self) -> None:
        """Run steps, which also create the optimizer's state, and undo them in place."""
        weights = copy.deepcopy(self._model.state_dict())
        before = copy.deepcopy(self._optimizer.state_dict()["state"])
        for _ in range(WARM_UP):
            super().run(self._batch)
        self._model.load_state_dict(weights)
        for number, tensors in self._optimizer.state_dict()["state"].items():
            for name, tensor in tensors.items():
                if number in before:
                    tensor.copy_(before[number][name])
                else:
                    tensor.zero_()


@functools.cache
def _get_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream for recorded steps in this process; cuBLAS keeps 32 MiB for each stream."""
    return torch.cuda.Stream(device)


STEPS: dict[str, type[Step]] = {"cpu": Step, "cuda": RecordedStep}
"""Type of device -> class of its steps."""


def _augment(images: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    if config.flip:
        images = flip(images, generator=generator)
    if config.crop_padding:
        images = crop(images, config.crop_padding, generator=generator)
    if config.cutout:
        images = cutout(images, config.cutout, generator=generator)
    return images


def _smooth(labels: Tensor, smoothing: float) -> Tensor:
    """Move labels (N,) float32 towards one half.

    Source: Szegedy et al. 2016, section 7 (arXiv:1512.00567), for two classes.
    """
    return labels * (1.0 - smoothing) + 0.5 * smoothing if smoothing else labels

"""The configuration of the CNN."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from trainables.errors import check_batch, check_field


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CnnConfig:
    """The paper's CNN, generalised: blocks of convolutions, each block ending in 2x2 max-pooling."""

    num_blocks: int = 2
    """Number of blocks, in [1, 5]; each halves height and width, so five reduce 32x32 to 1x1."""
    convs_per_block: int = 1
    """Convolutions in a block, in [1, 2]."""
    filters: int = 32
    """Output channels of the first block, at least 1; the last block may have 2048 at most."""
    growth: float = 1.0
    """Factor on the channels from one block to the next, in [1, 4]."""
    kernel_size: int = 3
    """Side of the convolutions' kernels: 1, 3, 5 or 7; padding keeps height and width."""
    whiten: bool = False
    """Whether 24 fixed 2x2 filters come first, which decorrelate the pixels of the training images."""
    pool: Literal["last", "first"] = "last"
    """Convolution that max-pooling follows in a block: the last, or the first, so that a second one costs a quarter."""
    batch_norm: bool = False
    """Whether batch normalisation follows each convolution."""
    head: Literal["flatten", "gap"] = "flatten"
    """Input of the dense layers: all values of the last maps (flatten), or the mean of each map (gap)."""
    dense_layers: int = 1
    """Hidden dense layers, in [0, 3]."""
    dense_units: int = 64
    """Width of each hidden dense layer, at least 1."""
    dropout: float = 0.0
    """Probability of dropping an input of a dense layer, in [0, 1)."""

    def __post_init__(self) -> None:
        check_field(self, "num_blocks", 1 <= self.num_blocks <= 5, "1 to 5")
        check_field(self, "convs_per_block", 1 <= self.convs_per_block <= 2, "1 or 2")
        check_field(self, "filters", self.filters >= 1, "at least 1")
        check_field(self, "growth", 1.0 <= self.growth <= 4.0, "1 to 4")
        check_field(self, "kernel_size", self.kernel_size in (1, 3, 5, 7), "1, 3, 5 or 7")
        check_field(self, "dense_layers", 0 <= self.dense_layers <= 3, "0 to 3")
        check_field(self, "dense_units", self.dense_units >= 1, "at least 1")
        check_field(self, "dropout", 0.0 <= self.dropout < 1.0, "0 up to, not including, 1")
        widest = self.channels[-1]
        check_field(
            self, "filters", widest <= 2048, f"such that the last block has at most 2048 channels, not {widest}"
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of each block."""
        return tuple(round(self.filters * self.growth**block) for block in range(self.num_blocks))

    @staticmethod
    def without_effect(size: int) -> Mapping[tuple[str, int], tuple[str, ...]]:
        """Return (parameter, value) -> the parameters that have no effect then."""
        # The last map is 1x1 with whitening too, which makes it a pixel larger.
        single = [("num_blocks", blocks) for blocks in range(1, 6) if size >> blocks == (size + 1) >> blocks == 1]
        return {
            ("num_blocks", 1): ("growth",),
            ("dense_layers", 0): ("dense_units",),
            **dict.fromkeys(single, ("head",)),
        }

    def check(self, *, size: int, batch_size: int) -> None:
        """Check that a batch can train; only behind the pooling of the last block can a map be 1x1.

        Raises:
            InputError: If the batch is too small.
        """
        is_pooled = self.pool == "first" and (size + self.whiten) >> self.num_blocks == 1
        check_batch(batch_size, is_single=self.batch_norm and is_pooled)

    def build(self, *, size: int) -> Any:
        """Build the network for images of size x size pixels."""
        from trainables.models.cnn.net import build_cnn  # imports torch

        return build_cnn(self, size)

    def fit(self, model: Any, images: Any) -> None:
        """Compute the fixed filters from training images (N, 3, size, size) in [0, 1]."""
        if self.whiten:
            from trainables.models.cnn.whitening import fit_whitening  # imports torch

            fit_whitening(model, images)

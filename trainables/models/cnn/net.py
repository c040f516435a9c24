"""The paper's CNN, generalised: blocks of convolutions, each ending in max-pooling, then dense layers."""

from torch import nn

from trainables.models.cnn.config import CnnConfig
from trainables.models.cnn.whitening import NUM_FILTERS, build_whitening
from trainables.models.head import build_head


def build_cnn(config: CnnConfig, size: int) -> nn.Sequential:
    """Build the network; CnnConfig() at 32 pixels is the paper's, with 141,345 parameters.

    ReLU follows the max-pooling: forward and backward results equal those of the other order, and ReLU costs a quarter.
    That saves 10 to 20 % of a step on a CPU.
    """
    layers: list[nn.Module] = []
    channels, side = 3, size
    if config.whiten:
        layers += [build_whitening(), nn.ReLU(inplace=True)]
        channels, side = NUM_FILTERS, size + 1
    for width in config.channels:
        for conv in range(config.convs_per_block):
            layers.append(_build_conv(channels, width, config))
            if config.pool == "first" and conv == 0:
                layers.append(nn.MaxPool2d(2))
            if config.batch_norm:
                layers.append(nn.BatchNorm2d(width))
            if config.pool == "last" and conv == config.convs_per_block - 1:
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        side //= 2
    if config.head == "gap":
        layers.append(nn.AdaptiveAvgPool2d(1))
        side = 1
    hidden = [config.dense_units] * config.dense_layers
    return nn.Sequential(*layers, nn.Flatten(), build_head(channels * side * side, hidden, config.dropout))


def _build_conv(channels: int, width: int, config: CnnConfig) -> nn.Conv2d:
    padding = config.kernel_size // 2
    return nn.Conv2d(channels, width, config.kernel_size, padding=padding, bias=not config.batch_norm)

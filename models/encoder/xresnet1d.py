"""Signal branch: xresnet1d50, and its shallower and deeper relatives, for 12-lead crops.

He et al., Bag of tricks for image classification with CNNs (CVPR 2019), made one-dimensional for
ECGs by Strodthoff et al., Deep learning for ECG analysis (JBHI 2021); used as signal branch by
Phan et al. (BHI 2022).
"""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from models.encoder.cnn import CNNEncoder, ResidualBlock, classifier, init_from_scratch
from util.contract.registry import register
from util.named_arguments import Kind

STRIDES = (1, 2, 2, 2)
# The stem has half as many.
CHANNELS = Annotated[int, Kind("a whole number of 2 or more", lambda value: value >= 2)]


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    bias: bool = False,
    relu: bool = True,
) -> nn.Sequential:
    """Return a convolution that keeps the length (divided by the stride, rounded up), BatchNorm
    and ReLU.
    """
    layers: list[nn.Module] = [
        nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=bias),
        nn.BatchNorm1d(outputs),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Block(ResidualBlock):
    """A residual block, a bottleneck where the expansion is above 1.

    The path of a bottleneck squeezes to ``inner`` channels, convolves with kernel 5 (and the
    stride), and widens again; that of a basic block is two convolutions with kernel 5.  The
    shortcut averages pairs where the path strides; where the number of channels changes, a 1x1
    convolution follows.
    """

    def __init__(self, inputs: int, inner: int, stride: int, expansion: int):
        super().__init__()
        outputs = inner * expansion
        if expansion > 1:
            convolutions = [
                conv_bn(inputs, inner, 1),
                conv_bn(inner, inner, 5, stride),
                conv_bn(inner, outputs, 1, relu=False),
            ]
        else:
            convolutions = [
                conv_bn(inputs, inner, 5, stride),
                conv_bn(inner, outputs, 5, relu=False),
            ]
        self.path = nn.Sequential(*convolutions)
        shortcut: list[nn.Module] = []
        if stride == 2:
            shortcut.append(nn.AvgPool1d(2, ceil_mode=True))
        if inputs != outputs:
            shortcut.append(conv_bn(inputs, outputs, 1, relu=False))
        self.shortcut = nn.Sequential(*shortcut)

    @property
    def last_norm(self) -> nn.Module:
        return self.path[-1].get_submodule("1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(path(x) + shortcut(x)), (batch, expansion * inner, ceil(time / stride)),
        for x (batch, inputs, time).
        """
        return F.relu(self.path(x) + self.shortcut(x), inplace=True)


# By name: the blocks' expansion and how many of them each stage has (He et al., Deep residual
# learning, 2016).
DEPTHS = {
    "xresnet1d18": (1, (2, 2, 2, 2)),
    "xresnet1d34": (1, (3, 4, 6, 3)),
    "xresnet1d50": (4, (3, 4, 6, 3)),
    "xresnet1d101": (4, (3, 4, 23, 3)),
    "xresnet1d152": (4, (3, 8, 36, 3)),
}


class XResNet1d(CNNEncoder):
    """The signal branch: stem, four stages of blocks, maxima and averages over time.

    All four stages have the same inner width (64 in xresnet1d50, so 256 channels and 512
    features).  Any length from one sample up is accepted; four stages leave one step in 32.

    Args:
        expansion: of the blocks.
        depths: blocks of each stage.
        num_classes, num_leads, channels, init: see ``xresnet_factory``.
    """

    first_weight = "stem.0.0.weight"

    def __init__(
        self,
        expansion: int,
        depths: tuple[int, ...],
        num_classes: int | None,
        num_leads: int,
        channels: int,
        init: str,
    ):
        super().__init__(num_leads)
        # The first convolution has a bias although BatchNorm follows: the published network
        # replaced it so.
        self.stem = nn.Sequential(
            conv_bn(num_leads, channels // 2, 5, stride=2, bias=True),
            conv_bn(channels // 2, channels // 2, 5),
            conv_bn(channels // 2, channels, 5),
            nn.MaxPool1d(3, stride=2, padding=1),
        )
        inputs = channels
        stages: list[nn.Module] = []
        for depth, stride in zip(depths, STRIDES):
            blocks = []
            for index in range(depth):
                blocks.append(Block(inputs, channels, stride if index == 0 else 1, expansion))
                inputs = channels * expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.width = 2 * inputs
        self.head = classifier(self.width, 256, num_classes)
        init_from_scratch(self, init)

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        """Return features (batch, width) of crops (batch, leads, time) in mV: maxima first, then
        averages.
        """
        x = self.standardize(self.unstandardized(series))
        x = self.stages(self.stem(x))  # (batch, channels, time / 32)
        pooled = [F.adaptive_max_pool1d(x, 1), F.adaptive_avg_pool1d(x, 1)]
        return torch.cat(pooled, dim=1).flatten(1)


def xresnet_factory(name: str) -> Callable[..., XResNet1d]:
    """Return the registered function ``name`` of ``DEPTHS``.

    Its arguments:
        num_classes: of the head Linear(width, 256), Linear(256, classes); None for an encoder
            without head.
        num_leads: leads of the crops.
        channels: inner width of every block, 64 as published; features are 8 times as many
            (xresnet1d18, 34: twice).  16 makes a network small enough for a laptop.
        init: weights from scratch, "shortcut" or "published"; see ``init_from_scratch``.
    """

    def factory(
        num_classes: int | None = 24,
        num_leads: int = 12,
        channels: CHANNELS = 64,
        init: str = "shortcut",
    ) -> XResNet1d:
        return XResNet1d(*DEPTHS[name], num_classes, num_leads, channels, init)

    factory.__name__ = factory.__qualname__ = name
    factory.__doc__ = f"Build the signal branch with {DEPTHS[name][1]} blocks in its stages."
    return register(factory)


xresnet1d18, xresnet1d34, xresnet1d50, xresnet1d101, xresnet1d152 = map(xresnet_factory, DEPTHS)

"""Signal branch: xresnet1d50 for 12-lead crops.

He et al., Bag of tricks for image classification with CNNs (CVPR 2019), made one-dimensional for ECGs by Strodthoff
et al., Deep learning for ECG analysis (JBHI 2021); used as signal branch by Phan et al. (BHI 2022).
"""
import torch
import torch.nn.functional as F
from torch import nn

from models.encoder.cnn import CNNEncoder, classifier, init_from_scratch
from models.registry import register

EXPANSION = 4
LAYERS = (3, 4, 6, 3)
STRIDES = (1, 2, 2, 2)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False, relu: bool = True):
    """Convolution that keeps the length (divided by stride, rounded up), BatchNorm and, unless told, ReLU."""
    layers = [nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=bias), nn.BatchNorm1d(outputs)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """relu(path(x) + shortcut(x)), (batch, inputs, time) -> (batch, 4 * inner, ceil(time / stride)).

    The path squeezes to ``inner`` channels, convolves with kernel 5 (and the stride), and widens again.  The shortcut
    averages pairs where the path strides and has a 1x1 convolution where the number of channels changes.
    """

    def __init__(self, inputs: int, inner: int, stride: int):
        super().__init__()
        outputs = inner * EXPANSION
        self.path = nn.Sequential(conv_bn(inputs, inner, 1), conv_bn(inner, inner, 5, stride),
                                  conv_bn(inner, outputs, 1, relu=False))
        shortcut = [nn.AvgPool1d(2, ceil_mode=True)] if stride == 2 else []
        if inputs != outputs:
            shortcut.append(conv_bn(inputs, outputs, 1, relu=False))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x):
        return F.relu(self.path(x) + self.shortcut(x), inplace=True)


class XResNet1d(CNNEncoder):
    """Standardised crop -> stem -> four stages of bottlenecks -> adaptive max and average pooling, side by side.

    All four stages have the same inner width (64 in xresnet1d50, so 256 channels and 512 features).  Any length
    from one sample up is accepted; four stages leave one step in 32.

    Args: see xresnet1d50.
    """

    def __init__(self, num_classes: int | None, num_leads: int, channels: int):
        super().__init__(num_leads)
        # The first convolution has a bias although BatchNorm follows: the published network replaced it so.
        self.stem = nn.Sequential(conv_bn(num_leads, channels // 2, 5, stride=2, bias=True),
                                  conv_bn(channels // 2, channels // 2, 5), conv_bn(channels // 2, channels, 5),
                                  nn.MaxPool1d(3, stride=2, padding=1))
        inputs, stages = channels, []
        for depth, stride in zip(LAYERS, STRIDES):
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(inputs, channels, stride if index == 0 else 1))
                inputs = channels * EXPANSION
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.width = 2 * inputs
        self.head = classifier(self.width, 256, num_classes)
        self._init_weights()

    def _init_weights(self):
        """Xavier and N(1, 0.02), then the last BatchNorm of every path is zeroed, so that each block starts as its
        shortcut.  The order matters: the published script drew N(1, 0.02) last and so lost its zeros."""
        init_from_scratch(self)
        for block in self.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.path[-1][1].weight)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Crop (batch, leads, time) in mV -> (batch, width): maxima first, then averages."""
        x = self.stages(self.stem(self.standardize(self.unstandardized(x))))     # (batch, 256, time / 32)
        return torch.cat([F.adaptive_max_pool1d(x, 1), F.adaptive_avg_pool1d(x, 1)], dim=1).flatten(1)


@register
def xresnet1d50(num_classes: int | None = 24, num_leads: int = 12, channels: int = 64) -> XResNet1d:
    """Signal branch, 512 features at the published size.

    Args:
        num_classes: classes of the head Linear(512, 256), Linear(256, classes); None for an encoder without head.
        num_leads: leads of the crops.
        channels: inner width of every block, 64 as published; features are 8 times as many.  16 makes a network for
            trying things out on a laptop.
    """
    return XResNet1d(num_classes, num_leads, channels)

"""Spectrogram branch: SE-ResNet-34 over the leads' spectrograms as channels.

Hu, Shen, Sun, Squeeze-and-excitation networks (CVPR 2018); used as spectrogram branch by Phan et
al. (BHI 2022).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from models.encoder.cnn import CNNEncoder, ResidualBlock, classifier, init_from_scratch
from util.contract.registry import register
from util.named_arguments import COUNT, POSITIVE
from util.signals.spectrogram import Spectrogram

LAYERS = (3, 4, 6, 3)
STRIDES = (1, 2, 2, 2)
REDUCTION = 16


class SqueezeExcite(nn.Module):
    """Scaling of every channel by what the means of all channels say."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // REDUCTION, 1)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x (batch, c, h, w) times sigmoid(W2 relu(W1 mean)), eqs. 2 to 4 of the paper."""
        scale = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * rearrange(scale, "b c -> b c 1 1")


class SEBlock(ResidualBlock):
    """A basic residual block with squeeze-and-excitation after its second BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcite(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    @property
    def last_norm(self) -> nn.Module:
        return self.path[4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(path(x) + shortcut(x)), (batch, outputs, ceil(h / stride), ceil(w /
        stride)), for x (batch, inputs, h, w).
        """
        return F.relu(self.path(x) + self.shortcut(x), inplace=True)


class SpectrogramSEResNet(CNNEncoder):
    """The spectrogram branch: an SE-ResNet-34 on standardised spectrograms, averaged over
    frequencies and frames.

    Args: see ``spectrogram_se_resnet34``.
    """

    first_weight = "stem.0.weight"

    def __init__(
        self,
        num_classes: int | None,
        num_leads: int,
        fs: float,
        segment_seconds: float,
        channels: int,
        init: str,
    ):
        super().__init__(num_leads)
        self.spectrogram = Spectrogram(fs, segment_seconds)
        self.stem = nn.Sequential(
            nn.Conv2d(num_leads, channels, 7, 2, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        inputs = channels
        stages: list[nn.Module] = []
        for depth, stride in zip(LAYERS, STRIDES):
            outputs = channels * 2 ** len(stages)
            stages.append(
                nn.Sequential(
                    SEBlock(inputs, outputs, stride),
                    *(SEBlock(outputs, outputs, 1) for _ in range(depth - 1)),
                )
            )
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.width = inputs
        self.head = classifier(self.width, 256, num_classes)
        init_from_scratch(self, init)

    def unstandardized(self, x: torch.Tensor) -> torch.Tensor:
        """Return the spectrogram (batch, leads, frequencies, frames) of a crop (batch, leads,
        time), and a spectrogram as it is.
        """
        return x if x.ndim == 4 else self.spectrogram(x)

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        """Return features (batch, width) of crops (batch, leads, time) in mV, or of their
        spectrograms (batch, leads, frequencies, frames), not yet standardised.

        A 2.5 s crop at 100 Hz ends as a single cell, so a batch of one can be evaluated but not
        trained on: BatchNorm needs two values.
        """
        x = self.stages(self.stem(self.standardize(self.unstandardized(series))))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


@register
def spectrogram_se_resnet34(
    num_classes: int | None = 24,
    num_leads: int = 12,
    fs: float = 100,
    segment_seconds: POSITIVE = 0.25,
    channels: COUNT = 64,
    init: str = "shortcut",
) -> SpectrogramSEResNet:
    """Build the spectrogram branch, 512 features at the published size.

    Args:
        num_classes: classes of the head Linear(512, 256), Linear(256, classes); None for an
            encoder without head.
        num_leads: leads of the crops.
        fs: sampling rate of the crops, Hz; it must be the store's.
        segment_seconds: length of an STFT segment; half of it overlaps the next.
        channels: channels of the first stage, 64 as published; features are 8 times as many.  8
            makes a network small enough for a laptop.
        init: weights from scratch, "shortcut" or "published"; see ``init_from_scratch``.
    """
    return SpectrogramSEResNet(num_classes, num_leads, fs, segment_seconds, channels, init)

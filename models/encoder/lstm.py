"""CPC's encoder with an LSTM (Mehari and Strodthoff, Computers in Biology and Medicine 2022)."""

from typing import Any

import torch
from torch import nn

from models.encoder.sequence import ConvolutionalSteps, convolution
from util.contract.registry import register
from util.named_arguments import COUNT


class LSTMEncoder(ConvolutionalSteps):
    """An encoder whose features (batch, 3 channels) are mean, maximum and last of an LSTM's
    states.

    Args: see ``cpc_lstm``.
    """

    def __init__(self, num_classes: int | None, num_leads: int, channels: int, layers: int):
        super().__init__(num_leads, channels)
        self.convolutions = nn.Sequential(
            *convolution(num_leads, channels),
            *convolution(channels, channels),
            *convolution(channels, channels),
            *convolution(channels, channels),
        )
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True)
        self.width = 3 * channels
        self.head = nn.Identity() if num_classes is None else nn.Linear(self.width, num_classes)

    @property
    def probed_layers(self) -> dict[str, nn.Module]:
        return {"convolutions": self.convolutions, "lstm": self.lstm}

    def layer_mean(self, output: Any) -> torch.Tensor:
        """Return the mean over time of the steps, or of the LSTM's states."""
        return output[0].mean(dim=1) if isinstance(output, tuple) else output.mean(dim=2)

    def level_of(self, name: str) -> int:
        """Return the level of a parameter: the LSTM is one, the convolutions are the one below."""
        return {"head": 0, "lstm": 1}.get(name.partition(".")[0], 2)

    def contexts(self, steps: torch.Tensor) -> torch.Tensor:
        return self.lstm(steps)[0]

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        states = self.contexts(self.steps(series))  # (batch, steps, channels)
        return torch.cat([states.mean(dim=1), states.amax(dim=1), states[:, -1]], dim=1)


@register
def cpc_lstm(
    num_classes: int | None = 24, num_leads: int = 12, channels: COUNT = 512, layers: COUNT = 2
) -> LSTMEncoder:
    """Build four convolutions of width 1 with BatchNorm and an LSTM, as published.

    Args:
        num_classes: width of the head; None for an encoder without one.
        num_leads: leads of the crops.
        channels: of the convolutions and of the LSTM.
        layers: of the LSTM.
    """
    return LSTMEncoder(num_classes, num_leads, channels, layers)

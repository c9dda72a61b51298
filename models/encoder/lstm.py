"""CPC's encoder with an LSTM (Mehari and Strodthoff, Computers in Biology and Medicine 2022)."""

import torch
from torch import nn

from models.encoder.sequence import SequenceEncoder, pointwise
from util.contract.registry import register


class LSTMEncoder(SequenceEncoder):
    """Crop (batch, leads, time) in mV -> features (batch, 3 channels): mean, maximum and last of
    the LSTM's states.

    Args: see ``cpc_lstm``.
    """

    def __init__(self, num_classes, num_leads, channels, layers):
        super().__init__(num_leads, channels)
        widths = [num_leads, *[channels] * 4]
        self.convolutions = nn.Sequential(
            *sum((pointwise(*pair) for pair in zip(widths, widths[1:])), [])
        )
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True)
        self.width = 3 * channels
        self.head = nn.Identity() if num_classes is None else nn.Linear(self.width, num_classes)

    def steps_below_head(self, name):
        """The LSTM is a level, the convolutions are the one below."""
        return {"head": 0, "lstm": 1}.get(name.partition(".")[0], 2)

    def contexts(self, steps):
        return self.lstm(steps)[0]

    def forward_features(self, series):
        states = self.contexts(self.steps(series))
        return torch.cat([states.mean(dim=1), states.amax(dim=1), states[:, -1]], dim=1)


@register
def cpc_lstm(
    num_classes: int | None = 24, num_leads: int = 12, channels: int = 512, layers: int = 2
) -> LSTMEncoder:
    """Four convolutions of width 1 with BatchNorm and an LSTM of ``layers``, all of ``channels``,
    as published. ``num_classes`` None makes an encoder without a head.
    """
    return LSTMEncoder(num_classes, num_leads, channels, layers)

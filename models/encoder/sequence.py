"""What CPC's two encoders share: each sample by itself, then what is known of all up to it."""

import torch
from torch import nn

from util.contract.encoder import Encoder
from util.signals.standardize import LeadStandardize


def pointwise(inputs: int, outputs: int, width: int = 1, stride: int = 1) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU."""
    return [
        nn.Conv1d(inputs, outputs, width, stride, width // 2),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    ]


class SequenceEncoder(Encoder):
    """A subclass sets ``width``, ``head`` and ``convolutions``, whose strides multiply to
    ``stride``, and writes ``contexts`` and ``forward_features``.

    Args:
        num_leads: leads of the crops.
        channels: width of the steps.
    """

    convolutions: nn.Module
    stride = 1

    def __init__(self, num_leads: int, channels: int):
        super().__init__()
        self.standardize, self.step_width = LeadStandardize(num_leads), channels

    def standardizers(self):
        return [(self.standardize, lambda crop: crop)]

    def step_count(self, samples: int) -> int:
        """How many steps a crop of so many samples is."""
        return -(-samples // self.stride)

    def steps(self, series: torch.Tensor) -> torch.Tensor:
        """(batch, leads, time) -> what each step is, (batch, step_count(time), step_width)."""
        return self.convolutions(self.standardize(series)).transpose(1, 2)

    def contexts(self, steps: torch.Tensor) -> torch.Tensor:
        """Steps -> what is known at each of them of all up to it, the same shape."""
        raise NotImplementedError

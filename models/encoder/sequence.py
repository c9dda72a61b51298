"""What CPC's two encoders share: a step from each stretch of samples, then a context from all steps
up to it.
"""

import torch
from torch import nn

from util.contract.encoder import Standardizer
from util.contract.sequence_encoder import SequenceEncoder
from util.signals.standardize import LeadStandardize


def convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> list[nn.Module]:
    """Return a convolution, which sees each step by itself where the kernel is 1, BatchNorm and
    ReLU.
    """
    return [
        nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    ]


class ConvolutionalSteps(SequenceEncoder):
    """A sequence encoder whose steps are made by convolutions.

    A subclass sets ``width``, ``head`` and ``convolutions``, whose strides multiply to
    ``stride``, and writes ``contexts`` and ``forward_features``.

    Args:
        num_leads: leads of the crops.
        channels: width of the steps.
    """

    convolutions: nn.Module
    stride: int = 1

    def __init__(self, num_leads: int, channels: int):
        super().__init__()
        self.standardize, self.step_width = LeadStandardize(num_leads), channels

    @property
    def lead_axes(self) -> dict[str, int]:
        return {"standardize.mean": 0, "standardize.std": 0, "convolutions.0.weight": 1}

    def standardizers(self) -> list[Standardizer]:
        return [(self.standardize, lambda crop: crop)]

    def step_count(self, samples: int) -> int:
        return -(-samples // self.stride)  # rounded up

    def steps(self, series: torch.Tensor) -> torch.Tensor:
        return self.convolutions(self.standardize(series)).transpose(1, 2)

"""CPC's encoder with state spaces (ECG-CPC, 2025), of the diagonal kind (S4D; Gu, Gupta, Goel,
Re, NeurIPS 2022).
"""

import math

import torch
from torch import nn

from models.encoder.sequence import SequenceEncoder, pointwise
from util.contract.registry import register

STEP = (1e-3, 1e-1)  # between which the time steps of a layer's channels start


class StateSpace(nn.Module):
    """x' = A x + u, y = Re(C x) + D u, of every channel by itself, A diagonal: (batch, time,
    channels) -> the same.

    Sampled by zero-order hold, y is u convolved with K_t = 2 Re sum_n C_n (exp(dt A_n) - 1) / A_n
    exp(t dt A_n), which is done by FFT.  Starts at A_n = -1/2 + i pi n (S4D-Lin).

    Args:
        channels: of the input.
        state: real numbers of a channel's state, in pairs of a complex one and its conjugate.
    """

    def __init__(self, channels: int, state: int):
        super().__init__()
        low, high = map(math.log, STEP)
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(channels))
        self.log_decay = nn.Parameter(torch.full((channels, state // 2), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(state // 2.0).repeat(channels, 1))
        self.read = nn.Parameter(
            0.5**0.5 * torch.randn(channels, state // 2, 2)
        )  # C, real and imaginary part
        self.skip = nn.Parameter(torch.randn(channels))

    def discrete(self):
        """Complex (channels, state / 2): the logarithm of what the state is multiplied by at each
        step, and C times what is added to it for an input of 1.
        """
        pole = torch.complex(-self.log_decay.exp(), self.frequency)
        step = pole * self.log_step.exp()[:, None]
        return step, torch.view_as_complex(self.read) * torch.expm1(step) / pole

    def kernel(self, length: int) -> torch.Tensor:
        """K, (channels, length)."""
        step, gain = self.discrete()
        powers = (step[..., None] * torch.arange(length, device=step.device)).exp()
        return 2 * (gain[..., None] * powers).sum(dim=1).real

    def forward(self, inputs):
        with torch.autocast(inputs.device.type, enabled=False):
            inputs = inputs.to(self.skip.dtype).transpose(1, 2)
            length = inputs.shape[-1]
            spectrum = torch.fft.rfft(inputs, 2 * length) * torch.fft.rfft(
                self.kernel(length), 2 * length
            )
            outputs = (
                torch.fft.irfft(spectrum, 2 * length)[..., :length] + self.skip[:, None] * inputs
            )
            return outputs.transpose(1, 2)


class S4Block(nn.Module):
    """LayerNorm(x + GLU(Linear(GELU(StateSpace(x))))), with dropout before the Linear and before
    the sum.
    """

    def __init__(self, channels: int, state: int, dropout: float):
        super().__init__()
        self.space = StateSpace(channels, state)
        self.mix = nn.Sequential(
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(channels, 2 * channels),
            nn.GLU(),
            nn.Dropout(dropout),
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x + self.mix(self.space(x)))


class S4Encoder(SequenceEncoder):
    """Crop (batch, leads, time) in mV -> features (batch, channels), the mean of the last layer's
    states.

    Args: see ``cpc_s4``.
    """

    stride = 2

    def __init__(self, num_classes, num_leads, channels, layers, state, dropout):
        super().__init__(num_leads, channels)
        self.convolutions = nn.Sequential(
            *pointwise(num_leads, channels, 3, self.stride),
            *sum((pointwise(channels, channels) for _ in range(3)), []),
        )
        self.layers = nn.ModuleList(S4Block(channels, state, dropout) for _ in range(layers))
        self.width = channels
        self.head = nn.Identity() if num_classes is None else nn.Linear(channels, num_classes)

    def steps_below_head(self, name):
        """Each layer is a level, with the convolutions below them all."""
        part, number = (name + ".").split(".")[:2]
        if part == "layers":
            return len(self.layers) - int(number)
        return 0 if part == "head" else len(self.layers) + 1

    def contexts(self, steps):
        for layer in self.layers:
            steps = layer(steps)
        return steps

    def forward_features(self, series):
        return self.contexts(self.steps(series)).mean(dim=1)


@register
def cpc_s4(
    num_classes: int | None = 24,
    num_leads: int = 12,
    channels: int = 512,
    layers: int = 4,
    state: int = 8,
    dropout: float = 0.2,
) -> S4Encoder:
    """A convolution over 3 samples of stride 2 and three over one, with BatchNorm, then
    ``layers`` of state spaces, all of ``channels``, as published.  ``num_classes`` None makes an
    encoder without a head.
    """
    return S4Encoder(num_classes, num_leads, channels, layers, state, dropout)

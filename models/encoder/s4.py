"""CPC's encoder with state spaces (ECG-CPC, 2025), of the diagonal kind (S4D; Gu, Gupta, Goel,
Re, NeurIPS 2022).
"""

import math

import torch
from torch import nn

from models.encoder.sequence import ConvolutionalSteps, convolution
from util.contract.registry import register
from util.named_arguments import COUNT, RATE

STEP = (1e-3, 1e-1)  # between which the time steps of a layer's channels start


class StateSpace(nn.Module):
    """A linear state space of every channel by itself: x' = A x + u, y = Re(C x) + D u, with A
    diagonal.

    Sampled by zero-order hold, y is u convolved with K_t = 2 Re sum_n C_n (exp(dt A_n) - 1) / A_n
    exp(t dt A_n), which is done by FFT.  Starts at A_n = -1/2 + i pi n (S4D-Lin).

    Args:
        channels: of the input.
        state: real numbers of a channel's state, in pairs of a complex one and its conjugate.
    """

    def __init__(self, channels: int, state: int):
        super().__init__()
        low, high = map(math.log, STEP)
        pairs = state // 2
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(channels))
        self.log_decay = nn.Parameter(torch.full((channels, pairs), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(pairs * 1.0).repeat(channels, 1))
        # C, real and imaginary part
        self.read = nn.Parameter(0.5**0.5 * torch.randn(channels, pairs, 2))
        self.skip = nn.Parameter(torch.randn(channels))

    def discrete(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the recurrence of one step, two complex tensors (channels, state / 2).

        Returns:
            The logarithm of what the state is multiplied by, dt A, and C times what is added to
            it for an input of 1.
        """
        pole = torch.complex(-self.log_decay.exp(), self.frequency)
        step = pole * self.log_step.exp()[:, None]
        return step, torch.view_as_complex(self.read) * torch.expm1(step) / pole

    def kernel(self, length: int) -> torch.Tensor:
        """Return K (channels, length)."""
        step, gain = self.discrete()
        powers = (step[..., None] * torch.arange(length, device=step.device)).exp()
        return 2 * (gain[..., None] * powers).sum(dim=1).real

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return y (batch, time, channels) of inputs u of the same shape."""
        # The FFT knows neither bfloat16 nor every length in float16.
        with torch.autocast(inputs.device.type, enabled=False):
            inputs = inputs.to(self.skip.dtype).transpose(1, 2)  # (batch, channels, time)
            length = inputs.shape[-1]
            padded = 2 * length  # else the end would wrap around to the beginning
            spectrum = torch.fft.rfft(inputs, padded) * torch.fft.rfft(self.kernel(length), padded)
            convolved = torch.fft.irfft(spectrum, padded)[..., :length]
            return (convolved + self.skip[:, None] * inputs).transpose(1, 2)


class S4Block(nn.Module):
    """A state space with a gated linear unit and a residual connection, dropout before the Linear
    and before the sum.
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return LayerNorm(x + GLU(Linear(GELU(StateSpace(x))))) for x (batch, time, channels)."""
        return self.norm(x + self.mix(self.space(x)))


class S4Encoder(ConvolutionalSteps):
    """An encoder whose features (batch, channels) are the mean of the last layer's states.

    Args: see ``cpc_s4``.
    """

    stride = 2

    def __init__(
        self,
        num_classes: int | None,
        num_leads: int,
        channels: int,
        layers: int,
        state: int,
        dropout: float,
    ):
        super().__init__(num_leads, channels)
        self.convolutions = nn.Sequential(
            *convolution(num_leads, channels, 3, self.stride),
            *convolution(channels, channels),
            *convolution(channels, channels),
            *convolution(channels, channels),
        )
        self.layers = nn.ModuleList(S4Block(channels, state, dropout) for _ in range(layers))
        self.width = channels
        self.head = nn.Identity() if num_classes is None else nn.Linear(channels, num_classes)

    @property
    def probed_layers(self) -> dict[str, nn.Module]:
        return {f"layer{i}": layer for i, layer in enumerate(self.layers)}

    def layer_mean(self, output: torch.Tensor) -> torch.Tensor:
        """Return the mean over time of (batch, time, width)."""
        return output.mean(dim=1)

    def level_of(self, name: str) -> int:
        """Return the level of a parameter: each layer is one, with the convolutions below them
        all.
        """
        part, number = f"{name}.".split(".")[:2]
        if part == "layers":
            return len(self.layers) - int(number)
        return 0 if part == "head" else len(self.layers) + 1

    def contexts(self, steps: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            steps = layer(steps)
        return steps

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        return self.contexts(self.steps(series)).mean(dim=1)


@register
def cpc_s4(
    num_classes: int | None = 24,
    num_leads: int = 12,
    channels: COUNT = 512,
    layers: COUNT = 4,
    state: COUNT = 8,
    dropout: RATE = 0.2,
) -> S4Encoder:
    """Build a convolution over 3 samples of stride 2 and three over one, with BatchNorm, then
    layers of state spaces, as published.

    Args:
        num_classes: width of the head; None for an encoder without one.
        num_leads: leads of the crops.
        channels: of the convolutions and of the layers.
        layers: of state spaces.
        state: real numbers of a channel's state.
        dropout: inside every layer.
    """
    return S4Encoder(num_classes, num_leads, channels, layers, state, dropout)

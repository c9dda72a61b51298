"""Magnitude spectrogram of a batch of crops, equal to |scipy.signal.stft| with its defaults, on
any device.
"""

import torch
import torch.nn.functional as F
from torch import nn

from util.errors import ConfigError


class Spectrogram(nn.Module):
    """(batch, leads, time) -> (batch, leads, frequencies, frames), linear magnitude in the unit
    of the signal.

    Equal to ``abs(scipy.signal.stft(x, fs, nperseg=n, noverlap=n // 2)[2])``: periodic Hann
    window, half a segment of zeros at both ends, zeros at the tail up to a whole number of hops,
    "spectrum" scaling.  A segment lasts ``segment_seconds`` (25 samples at 100 Hz, overlap 12: 13
    frequencies x 21 frames of 250 samples).

    Silence has magnitude zero, where no gradient with respect to the signal is defined.

    Args:
        fs: sampling rate, Hz.
        segment_seconds: length of a segment; whole samples, rounded down.
    """

    window: torch.Tensor

    def __init__(self, fs: float = 100, segment_seconds: float = 0.25) -> None:
        super().__init__()
        # 0.29 s at 100 Hz is 29 samples, not int(28.999999999999996)
        self.segment = int(fs * segment_seconds + 1e-9)
        if self.segment < 2:
            raise ConfigError(
                f"a spectrogram segment of {segment_seconds} s holds {self.segment} samples at "
                f"{fs} Hz; two are needed: raise segment_seconds"
            )
        self.hop = self.segment - self.segment // 2
        self.frequencies = self.segment // 2 + 1
        # it follows from the arguments
        self.register_buffer("window", torch.hann_window(self.segment), persistent=False)

    def frames(self, samples: int) -> int:
        """Return the number of frames of a crop of this many samples."""
        return 1 + -(-(samples + 2 * (self.segment // 2) - self.segment) // self.hop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, leads, frequencies, frames) of x (batch, leads, time).

        It is float32, or float64 of a float64 signal.  Autocast is off inside: bfloat16
        keeps two digits of the waveform.
        """
        half = self.segment // 2
        tail = (self.frames(x.shape[-1]) - 1) * self.hop + self.segment - x.shape[-1] - half
        with torch.autocast(x.device.type, enabled=False):
            x = F.pad(x if x.dtype == torch.float64 else x.float(), (half, tail))
            window = self.window.to(x.dtype) / self.window.sum()
            parts = torch.stft(
                x.flatten(0, 1),
                self.segment,
                self.hop,
                window=window,
                center=False,
                return_complex=True,
            )
            return parts.abs().unflatten(0, x.shape[:2])

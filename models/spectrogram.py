"""Magnitude spectrogram of a batch of crops, equal to |scipy.signal.stft| with its defaults, on any device."""
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from util.errors import ConfigError


class Spectrogram(nn.Module):
    """(batch, leads, time) -> (batch, leads, frequencies, frames), linear magnitude in the unit of the signal.

    Equal to ``abs(scipy.signal.stft(x, fs, nperseg=n, noverlap=n // 2)[2])``: periodic Hann window, half a segment of
    zeros at both ends, zeros at the tail up to a whole number of hops, "spectrum" scaling.  A segment lasts
    ``segment_seconds`` (25 samples at 100 Hz, overlap 12: 13 frequencies x 21 frames of 250 samples).

    The transform is one strided convolution with the windowed cosines and sines, faster on a CPU than an FFT of
    segments this short (benchmarks/spectrogram.py).  Silence has magnitude zero, where no gradient with respect to the
    signal is defined.

    Args:
        fs: sampling rate, Hz.
        segment_seconds: length of a segment; whole samples, rounded down.
    """

    def __init__(self, fs: float = 100, segment_seconds: float = 0.25):
        super().__init__()
        self.segment = int(fs * segment_seconds + 1e-9)  # 0.29 s at 100 Hz is 29 samples, not int(28.999999999999996)
        if self.segment < 2:
            raise ConfigError(f"a spectrogram segment of {segment_seconds} s holds {self.segment} samples at {fs} Hz; "
                              "two are needed: raise segment_seconds")
        self.hop = self.segment - self.segment // 2
        self.frequencies = self.segment // 2 + 1
        self.register_buffer("filters", self._filters().float(), persistent=False)  # follows from the arguments

    def _filters(self):
        """(2 * frequencies, 1, segment): real parts of the windowed Fourier basis, then imaginary ones."""
        n = torch.arange(self.segment, dtype=torch.float64)
        window = torch.hann_window(self.segment, periodic=True, dtype=torch.float64)
        # multiples are reduced modulo the segment first: the angle of a large product would lose digits
        turns = torch.outer(torch.arange(self.frequencies, dtype=torch.float64), n) % self.segment
        angle = 2 * math.pi / self.segment * turns
        return (torch.cat([angle.cos(), angle.sin()]) * window / window.sum())[:, None]

    def frames(self, samples: int) -> int:
        """Frames of a crop of this many samples."""
        return 1 + -(-(samples + 2 * (self.segment // 2) - self.segment) // self.hop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, leads, time) -> (batch, leads, frequencies, frames); float32, or float64 of a float64 signal.

        Autocast is off inside: bfloat16 keeps two digits of the waveform.
        """
        batch, _, samples = x.shape
        half = self.segment // 2
        tail = (self.frames(samples) - 1) * self.hop + self.segment - samples - half
        result = x.dtype if x.dtype == torch.float64 else torch.float32
        # CUDA convolves float32 in TensorFloat-32 by default, off by 1e-3; float64 costs nothing at this size.
        precision = torch.float64 if x.is_cuda else result
        with torch.autocast(x.device.type, enabled=False):
            x = F.pad(rearrange(x, "b l t -> (b l) 1 t").to(precision), (half, tail))
            parts = F.conv1d(x, self.filters.to(precision), stride=self.hop)
            real, imaginary = rearrange(parts, "bl (part f) t -> part bl f t", part=2)
            return rearrange(torch.hypot(real, imaginary), "(b l) f t -> b l f t", b=batch).to(result)

"""Another sampling rate of signals on a device, as importing resamples recordings."""

import torch


def resample(x: torch.Tensor, fs: float, rate: float) -> torch.Tensor:
    """Resample signals along time by FFT, as scipy.signal.resample does.

    Args:
        x: float32 (..., time) at fs Hz.
        fs: their sampling rate in Hz.
        rate: the wanted one, in Hz.

    Returns:
        float32 (..., int(time * rate / fs)); ``x`` itself where the rates are equal.
    """
    n = x.shape[-1]
    m = int(n * rate / fs)
    if rate == fs:
        return x
    kept = min(n, m)
    band = torch.fft.rfft(x)[..., : kept // 2 + 1] * (m / n)
    if kept % 2 == 0 and n != m:  # the highest bin stands for +f and -f in one of the lengths only
        band[..., kept // 2] *= 2.0 if m < n else 0.5
    return torch.fft.irfft(band, m)

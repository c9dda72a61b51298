"""The spectrogram module against scipy, the definition that the published system uses."""

import numpy as np
import pytest
import scipy.signal
import torch

from util.errors import ConfigError
from util.signals.spectrogram import Spectrogram


def scipy_magnitude(x, fs, segment):
    return np.abs(scipy.signal.stft(x, fs, nperseg=segment, noverlap=segment // 2)[2])


def ecg_like(batch, samples, seed=0):
    """Noise of about a millivolt on offsets of up to several, as unfiltered leads have."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(batch, 12, samples)) + rng.normal(scale=3, size=(batch, 12, 1))
    ).astype(np.float32)


@pytest.mark.parametrize(
    "fs, segment", [(100, 25), (250, 62), (257, 64), (360, 90), (500, 125), (1000, 250)]
)
@pytest.mark.parametrize("seconds, extra", [(1.0, 0), (2.5, 0), (2.5, 1), (3.3, 7)])
def test_equals_scipy(fs, segment, seconds, extra):
    x = ecg_like(2, int(fs * seconds) + extra)
    module = Spectrogram(fs)
    expected = scipy_magnitude(x, fs, segment)
    result = module(torch.from_numpy(x)).numpy()
    assert result.shape == expected.shape == (2, 12, module.frequencies, module.frames(x.shape[-1]))
    np.testing.assert_allclose(result, expected, atol=1e-5, rtol=0)


def test_every_length_has_scipys_frames():
    module = Spectrogram(100)
    for samples in range(25, 130):
        x = ecg_like(1, samples, seed=samples)
        np.testing.assert_allclose(
            module(torch.from_numpy(x)), scipy_magnitude(x, 100, 25), atol=1e-5, rtol=0
        )


def test_published_size():
    assert Spectrogram(100)(torch.zeros(1, 12, 250)).shape == (1, 12, 13, 21)


def test_a_sine_shows_at_its_frequency_with_half_its_amplitude():
    """ "spectrum" scaling: a sine of 2 mV on a bin's centre has magnitude 1 there (the other half
    is at -f).
    """
    t = torch.arange(500) / 100
    x = 2 * torch.sin(2 * torch.pi * 20 * t).expand(1, 1, -1)  # 20 Hz is bin 5 of 4 Hz each
    inner = Spectrogram(100)(x)[0, 0, :, 2:-3]
    assert inner.argmax(0).eq(5).all()
    torch.testing.assert_close(inner[5], torch.ones(inner.shape[1]), atol=1e-5, rtol=0)


def test_segment_length_survives_binary_fractions():
    assert int(0.29 * 100) == 28  # the trap
    assert Spectrogram(100, 0.29).segment == 29


def test_stays_float32_under_autocast():
    x = torch.from_numpy(ecg_like(2, 250))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = Spectrogram(100)(x)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, scipy_magnitude(x.numpy(), 100, 25), atol=1e-5, rtol=0)


def test_double_and_half_precision_signals():
    x = torch.from_numpy(ecg_like(1, 250))
    double = Spectrogram(100)(x.double())
    assert double.dtype == torch.float64
    np.testing.assert_allclose(
        double, scipy_magnitude(x.double().numpy(), 100, 25), atol=1e-6, rtol=0
    )
    half = Spectrogram(100)(x.half())
    assert half.dtype == torch.float32
    np.testing.assert_allclose(
        half, scipy_magnitude(x.half().float().numpy(), 100, 25), atol=1e-5, rtol=0
    )


def test_no_tensor_in_the_state_dict():
    assert Spectrogram(100).state_dict() == {}


def test_leads_and_crops_do_not_mix():
    x = torch.from_numpy(ecg_like(3, 250))
    whole = Spectrogram(100)(x)
    for crop, lead in ((0, 0), (2, 11)):
        torch.testing.assert_close(
            whole[crop, lead], Spectrogram(100)(x[crop : crop + 1, lead : lead + 1])[0, 0]
        )


def test_a_segment_of_one_sample_is_refused():
    with pytest.raises(ConfigError, match="raise segment_seconds"):
        Spectrogram(100, 0.01)

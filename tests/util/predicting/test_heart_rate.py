"""Heart rates of made beats: a narrow QRS, a broad T wave, noise."""

import numpy as np
import pytest

from util.predicting.heart_rate import heart_rate


def beats(times, fs, seconds=10, tall_t=0.3, seed=0):
    t = np.arange(int(seconds * fs)) / fs
    trace = np.zeros_like(t)
    for beat in times:
        trace += np.exp(-(((t - beat) / 0.012) ** 2))
        trace += tall_t * np.exp(-(((t - beat - 0.28) / 0.06) ** 2))
    noise = 0.02 * np.random.default_rng(seed).standard_normal((len(t), 2))
    return np.stack([trace, -0.5 * trace], axis=1) + noise + 0.5 * np.sin(2 * t)[:, None]


@pytest.mark.parametrize("fs", [100, 250, 500, 1000])
@pytest.mark.parametrize("rate", [38, 60, 75, 110, 180])
def test_a_steady_rhythm(fs, rate):
    signal = beats(np.arange(0.4, 10, 60 / rate), fs)
    assert heart_rate(signal, fs) == pytest.approx(rate, rel=0.02)


def test_an_irregular_rhythm_has_the_mean_and_tall_t_waves_are_no_beats():
    times = np.cumsum(np.random.default_rng(1).uniform(0.45, 1.2, 11))
    times = times[times < 9.5]
    mean = 60 * (len(times) - 1) / (times[-1] - times[0])
    assert heart_rate(beats(times, 500), 500) == pytest.approx(mean, rel=0.02)
    assert heart_rate(beats(np.arange(0.4, 10, 1), 500, tall_t=1.1), 500) == pytest.approx(60, 0.02)


def test_where_nothing_beats_there_is_no_rate():
    assert heart_rate(np.zeros((5000, 12)), 500) is None
    assert heart_rate(np.full((5000, 2), np.nan), 500) is None
    assert heart_rate(beats([0.5], 500, seconds=0.6), 500) is None
    assert heart_rate(beats([1, 2, 3], 30), 30) is None
    gap = beats(np.arange(0.4, 10, 0.8), 250)
    gap[:, 1] = np.nan
    assert heart_rate(gap, 250) == pytest.approx(75, rel=0.02)

"""The published data pipeline, one sample after the other with scipy in float64."""

import numpy as np
import scipy.signal

CROP = 2250
HIGH, LOW = (
    scipy.signal.butter(5, cutoff, kind, fs=250, output="sos")
    for kind, cutoff in (("highpass", 0.67), ("lowpass", 40))
)


def scipy_sample(store, row, start):
    """One crop, (12, 2250) float64, by the published steps."""
    x = store.read(row).T.astype(np.float64)
    if store.fs != 250:
        x = scipy.signal.resample(x, int(x.shape[1] * 250 / store.fs), axis=1)
    x = x[:, start : start + CROP]
    x = scipy.signal.sosfiltfilt(LOW, scipy.signal.sosfiltfilt(HIGH, x))
    return (x - x.mean()) / x.std()

"""Spectrograms as the published loader made them: |scipy.signal.stft| of one crop after the
other.
"""

import numpy as np
import scipy.signal


def scipy_spectrogram(crop, fs, segment):
    """(leads, time) -> (leads, frequencies, frames)."""
    return np.abs(scipy.signal.stft(crop, fs, nperseg=segment, noverlap=segment // 2)[2])

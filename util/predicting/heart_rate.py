"""The heart rate of a recording, by its QRS complexes."""

import numpy as np
import scipy.signal

BAND = (8.0, 20.0)  # Hz, where QRS complexes have most of their energy, and T waves little
WIDTH = 0.12  # seconds over which it is averaged, about one complex
APART = 0.24  # seconds between two beats at the least, 250 a minute
SHARE = 0.25  # of the usual beat's energy that a beat has
FEWEST = 3  # beats


def heart_rate(signal_mv: np.ndarray, fs: float) -> float | None:
    """Return the mean heart rate in beats a minute, None where it is not clear.

    Beats are peaks of the energy between 8 and 20 Hz, all leads together, so that neither a
    lead's polarity nor wander counts.

    Args:
        signal_mv: (samples, leads) in mV.
        fs: sampling rate in Hz, above 40.
    """
    signal = np.nan_to_num(np.asarray(signal_mv, float))
    if fs <= 2 * BAND[1] or len(signal) < FEWEST * fs * APART:
        return None
    band = scipy.signal.butter(2, BAND, "bandpass", fs=fs, output="sos")
    filtered = scipy.signal.sosfiltfilt(band, signal, axis=0)
    strength = np.quantile(np.abs(filtered), 0.98, axis=0)
    if not strength.any():
        return None
    filtered = filtered[:, strength > 0] / strength[strength > 0]
    width = max(int(WIDTH * fs), 1)
    energy = np.convolve(np.square(filtered).mean(axis=1), np.ones(width) / width, "same")
    distance = max(int(APART * fs), 1)
    peaks, _ = scipy.signal.find_peaks(energy, distance=distance)
    if len(peaks) < FEWEST:
        return None
    seconds = max(int(len(signal) / fs), 1)
    usual = np.median(np.sort(energy[peaks])[-seconds:])
    beats = peaks[energy[peaks] > SHARE * usual]
    if len(beats) < FEWEST:
        return None
    return float(60 * fs * (len(beats) - 1) / (beats[-1] - beats[0]))

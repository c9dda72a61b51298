"""A heart dipole that beats according to a list of findings, seen through the twelve leads.

The heart is one moving current dipole (McSharry et al. 2003, A dynamical model for generating
synthetic electrocardiogram signals, IEEE Trans. Biomed. Eng. 50; Sameni et al. 2007, Multichannel
ECG and noise modeling, EURASIP J. Adv. Signal Process.).  Its path over a beat is a sum of
Gaussians, here in time relative to the beat rather than in phase, so that PR, QRS and QT are
exact.  Dower's matrix turns the dipole into potentials (Dower, Machado and Osborne 1980, On
deriving the electrocardiogram from vectorcardiographic leads, Clin. Cardiol. 3).  Noise enters at
the ten electrodes, before the leads are formed, so that Einthoven's and Goldberger's identities
hold for noise as well.

    findings = Findings(rhythm="sinus", rate=72, pr=0.16, ...)
    # mV (samples, 12)
    signal = simulate(findings, fs=500, samples=5000, mains=50, rng=np.random.default_rng(0))
"""

import numpy as np
from scipy.signal import butter, lfilter

from data_preparation.simulator.dipole import (
    TO_ELECTRODES,
    TO_FRANK,
    TO_LEADS,
    Waves,
    join,
    render,
    thin_product,
)
from data_preparation.simulator.findings import Findings
from data_preparation.simulator.rhythm import beats, flutter_or_fibrillation
from data_preparation.simulator.wave_shapes import atrial_waves, ventricular_waves


def simulate(
    findings: Findings, fs: float, samples: int, mains: float, rng: np.random.Generator
) -> np.ndarray:
    """Return one recording: float64 (samples, 12) in mV, leads in the order of ``LEADS``.

    Args:
        findings: of the patient.
        fs: sampling rate in Hz.
        samples: length of the record.
        mains: frequency of the mains hum in Hz.
        rng: source of every random number of the record.
    """
    breath = rng.uniform(0.2, 0.33) if findings.swing < 0.12 else rng.uniform(0.13, 0.22)
    beat = beats(findings, samples / fs, breath, rng)
    waves = join(*atrial_waves(findings, beat, rng), *ventricular_waves(findings, beat, rng))
    dipole = render(_breathing(waves, breath, rng), samples, fs)
    if not findings.has_p_waves:
        dipole += flutter_or_fibrillation(findings, beat.onset[0], np.arange(samples) / fs, rng)
    gain = np.concatenate(
        [rng.uniform(0.98, 1.02, 3), rng.uniform(0.88, 1.12, 6)]
    )  # contact and placement
    electrodes = thin_product(dipole, TO_ELECTRODES * gain)
    electrodes += _disturbances(findings, samples, fs, mains, breath, rng)
    return thin_product(electrodes, TO_LEADS)


def _breathing(waves: Waves, breath: float, rng) -> Waves:
    """Breathing turns and moves the heart; every beat also differs a little.  Vectors leave
    as (X, Y, Z).
    """
    phase = 2 * np.pi * breath * waves.centre
    size = 1 + rng.uniform(0.01, 0.05) * np.sin(phase) + 0.012 * rng.standard_normal(len(phase))
    turn = np.deg2rad(rng.uniform(1, 4)) * np.sin(phase + 1)
    x, y, z = (waves.vector @ TO_FRANK).T * size
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return waves._replace(vector=np.stack([x, y, z], axis=1))


def _disturbances(findings: Findings, samples, fs, mains, breath, rng) -> np.ndarray:
    """Noise of the nine electrodes (samples, 9) in mV: baseline wander, mains hum, muscles
    (15 to 100 Hz).
    """
    time = np.arange(samples) / fs
    hum_level = 0.004 * np.exp(0.7 * rng.standard_normal(9)) * (rng.random() < 0.7)
    hum = np.sin(
        2 * np.pi * mains * (1 + 1e-4 * rng.standard_normal()) * time + rng.uniform(0, 6.3)
    )
    band = butter(1, [15, min(100, 0.45 * fs)], "bandpass", fs=fs)
    muscle = lfilter(*band, rng.standard_normal((samples, 9), dtype=np.float32), axis=0)
    muscle /= muscle.std()
    envelope = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.05, 0.3) * time + rng.uniform(0, 6.3))
    strength = 0.006 * np.exp(0.45 * rng.standard_normal() + 0.25 * rng.standard_normal(9))
    wander = _baseline_wander(time, breath, rng)
    return findings.noise * (
        wander + hum[:, None] * hum_level + muscle * envelope[:, None] * strength
    )


def _baseline_wander(time, breath, rng):
    """Slow movements and breathing, which reach all electrodes in different strength (samples,
    9).  Nothing here is faster than 0.5 Hz, so a grid of 25 Hz and straight lines between its
    points will do.
    """
    frequency = np.concatenate([[breath], rng.uniform(0.04, 0.5, 5)])
    level = np.concatenate([[0.025], 0.012 / (frequency[1:] / 0.1).clip(0.5)]) * np.exp(
        0.4 * rng.standard_normal(6)
    )
    weight = level[:, None] * rng.standard_normal((2, 6, 9))
    grid = np.arange(0, time[-1] + 0.08, 0.04)
    angle = 2 * np.pi * np.outer(grid, frequency)
    coarse = thin_product(np.sin(angle), weight[0]) + thin_product(np.cos(angle), weight[1])
    return np.stack([np.interp(time, grid, electrode) for electrode in coarse.T], axis=1)

"""When a simulated heart beats, and what its atria do meanwhile."""

from typing import NamedTuple

import numpy as np

from data_preparation.simulator.dipole import TO_FRANK, thin_product
from data_preparation.simulator.findings import Findings


class Beats(NamedTuple):
    """Ventricular beats, (b,) each.

    Attributes:
        onset: of the QRS, in seconds.
        qt: QT interval in seconds.
        kind: 0 a beat of the rhythm, 1 a PAC, 2 a PVC.
    """

    onset: np.ndarray
    qt: np.ndarray
    kind: np.ndarray


def beats(findings: Findings, duration: float, breath: float, rng: np.random.Generator) -> Beats:
    """Return all beats whose waves may touch the record.

    Args:
        findings: of the patient.
        duration: of the record, in seconds.
        breath: breaths a second.
        rng: source of chance.
    """
    count = int(duration / 60 * findings.rate * 1.6) + 8
    rr = _intervals(findings, count, breath, rng)
    start = -rng.uniform(0.6, 1.6) * rr[0]
    rr, kind = _ectopic_beats(findings, rr, start, duration, rng)
    onset = start + np.concatenate([[0], np.cumsum(rr)])
    mean = 60 / findings.rate
    before = np.concatenate([[mean], rr])
    wide = 0.485 * max(0.0, findings.qrs - 0.10)  # Bogossian's allowance for a wide QRS
    qt = findings.qtc * np.sqrt(0.85 * mean + 0.15 * np.minimum(before, 1.5 * mean)) + wide
    keep = (onset > -1.2) & (onset < duration + 0.6)
    return Beats(onset[keep], qt[keep], np.concatenate([[0], kind])[keep])


def _intervals(findings: Findings, count: int, breath: float, rng) -> np.ndarray:
    """RR intervals (count,) in seconds, without ectopic beats."""
    mean = 60 / findings.rate
    if findings.rhythm == "fibrillation":  # irregularly irregular: no memory from beat to beat
        variation = rng.uniform(0.19, 0.28)
        rr = np.maximum(mean * rng.gamma(variation**-2, variation**2, count), 0.32)
        return rr * mean / rr[: int(count / 1.6)].mean()
    if findings.rhythm == "flutter":  # whole numbers of flutter waves
        cycle, ratio = 60 / findings.atrial_rate, findings.atrial_rate / findings.rate
        steps = np.floor(ratio + 1e-9) + (rng.random(count) < (ratio + 1e-9) % 1)
        return steps * cycle * (1 + 0.004 * rng.standard_normal(count))
    if findings.rhythm == "paced":
        return np.full(count, mean)
    time = mean * np.arange(count)
    # Mayer waves
    slow = 0.012 * mean * np.sin(2 * np.pi * 0.1 * time + rng.uniform(0, 2 * np.pi))
    wander = 0.008 * mean * rng.standard_normal(count)
    if findings.rhythm == "junctional":
        return mean + wander
    return (
        mean
        + findings.swing / 2 * np.sin(2 * np.pi * breath * time + rng.uniform(0, 2 * np.pi))
        + slow
        + wander
    )


def _ectopic_beats(findings: Findings, rr, start, duration, rng):
    """Let some beats (never two in a row) come early.  Returns the intervals and the kind
    of beat that ends each.
    """
    kind = np.zeros(len(rr), int)
    if findings.ectopy == "none":
        return rr, kind
    time = start + np.cumsum(rr)
    first = np.searchsorted(time, 0.5) + 1
    slots = np.arange(first, max(np.searchsorted(time, duration - 1.2), first + 1), 2)
    wanted = int(np.clip(round(findings.ectopics * duration / 10), 1, len(slots)))
    where = np.sort(rng.choice(slots, wanted, replace=False))
    atrial = findings.ectopy == "pac"
    early = rng.uniform(*((0.56, 0.70) if atrial else (0.52, 0.66))) + 0.02 * rng.standard_normal(
        wanted
    )
    pause = 1.08 if atrial else 2 - early  # a PVC leaves the sinus node alone: full pause
    rr[where], rr[where + 1] = rr[where] * early, rr[where] * pause
    kind[where] = 1 if atrial else 2
    return rr, kind


def flutter_or_fibrillation(
    findings: Findings, first_beat: float, time: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return atrial activity without P waves, a dipole (n, 3) in mV.

    Sawtooth waves whose amplitude and period wander (Stridh and Sornmo 2001,
    Spatiotemporal QRST cancellation techniques for analysis of atrial fibrillation).
    """
    if findings.rhythm == "flutter":
        phase = 2 * np.pi * findings.atrial_rate / 60 * (time - first_beat + 0.05)
        harmonics, size = 5, rng.uniform(0.10, 0.17)
        vector = np.array([0.05, 0.95, 0.45])
        envelope = np.ones(1)
    else:
        frequency = rng.uniform(4.8, 7.5)
        drift = sum(
            rng.uniform(0.3, 1.0) / f * np.sin(2 * np.pi * f * time + rng.uniform(0, 6.3)) * 0.35
            for f in (0.13, 0.31, 0.83, 1.7)
        )
        phase = 2 * np.pi * frequency * time + 2 * np.pi * drift
        harmonics, size = 3, rng.uniform(0.04, 0.11)
        vector = np.array([-0.12, 0.40, -1.0])
        envelope = (
            1
            + 0.35 * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * time)
            + 0.25 * np.sin(2 * np.pi * rng.uniform(0.7, 1.3) * time)
        )
    saw = sum(np.sin(k * phase) / k * 0.85**k for k in range(1, harmonics + 1))
    turned = sum(np.sin(k * phase + 0.9) / k * 0.85**k for k in range(1, 3))
    path = np.outer(envelope * saw, vector) + np.outer(envelope * turned, 0.25 * vector[::-1])
    return size * thin_product(path, TO_FRANK)

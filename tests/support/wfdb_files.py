"""Small WFDB recordings for tests, and where the shared ones are."""

from pathlib import Path

import numpy as np
import pytest

from util.leads import LEADS

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_broken = pytest.mark.skipif(
    not (SHARED / "broken").is_dir(), reason="no ../shared/data/broken by the checkout"
)
needs_real = pytest.mark.skipif(
    not (SHARED / "real_ecg").is_dir(), reason="no ../shared/data/real_ecg by the checkout"
)


def ecg_counts(n=1500, seed=0, leads=12):
    """int16 (n, leads) that differ in every lead and sample: smooth noise of about one millivolt
    in microvolts.
    """
    rng = np.random.default_rng(seed)
    walk = rng.normal(0, 60, (n, leads)).cumsum(0)
    return (walk - walk.mean(0) + 40 * np.arange(leads)).clip(-30000, 30000).astype("<i2")


def mat_bytes(matrix, kind=30):
    """A MATLAB v4 file with one matrix ``val``, (n, signals) here, (signals, n) in the file."""
    n, signals = matrix.shape
    return np.array([kind, signals, n, 0, 4], "<i4").tobytes() + b"val\0" + matrix.tobytes()


def header_text(
    name,
    n,
    fs="500",
    leads=LEADS,
    layout="16+24",
    gain="1000/mV",
    comments=("#Age: 50", "#Sex: Male", "#Dx: 426783006"),
):
    lines = [f"{name} {len(leads)} {fs} {n}"] + [
        f"{name}.mat {layout} {gain} 16 0 0 0 0 {lead}" for lead in leads
    ]
    return "\n".join([*lines, *comments]) + "\n"


def write_record(folder, name, counts=None, **header):
    """Write a Challenge record; returns the path of its .hea."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = ecg_counts() if counts is None else counts
    (folder / f"{name}.mat").write_bytes(mat_bytes(counts))
    (folder / f"{name}.hea").write_text(header_text(name, len(counts), **header))
    return folder / f"{name}.hea"

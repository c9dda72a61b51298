"""Disturbed records: what each disturbance does, and that all models see the same."""

import numpy as np
import pandas as pd
import pytest

from experiments import robustness as script
from tests.support import small_store
from tests.support.small_store import run
from util.handover.robustness import panel
from util.leads import LEADS

FS = 250


def ecg(samples=2500):
    return np.random.default_rng(0).standard_normal((12, samples))


def applied(kind, strength, x, leads=LEADS, seed=0):
    (found,) = [each for each in panel(FS, leads) if (each.kind, each.strength) == (kind, strength)]
    return found.apply(x.copy(), FS, leads, np.random.default_rng(seed))


def test_noise_has_the_strength_it_says():
    x = ecg()
    noise = applied("muscle noise", "0.1 mV", x) - x
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    for kind, strength, frequency in (
        ("wander", "0.5 mV, 0.3 Hz", 0.3),
        ("mains", "0.2 mV, 50 Hz", 50),
    ):
        wave = applied(kind, strength, x) - x
        spectrum = np.abs(np.fft.rfft(wave[0]))
        assert np.fft.rfftfreq(2500, 1 / FS)[spectrum.argmax()] == pytest.approx(frequency, abs=0.1)
        assert np.abs(wave).max() == pytest.approx(float(strength.split()[0]), rel=0.01)


def test_swapped_arms_keep_einthovens_law_and_leave_the_chest_leads():
    x = ecg()
    x[2] = x[1] - x[0]
    x[3], x[4], x[5] = -(x[0] + x[1]) / 2, x[0] - x[1] / 2, x[1] - x[0] / 2
    swapped = applied("swapped", "left and right arm", x)
    np.testing.assert_allclose(swapped[2], swapped[1] - swapped[0])
    np.testing.assert_allclose(swapped[3], -(swapped[0] + swapped[1]) / 2)
    np.testing.assert_allclose(swapped[4], swapped[0] - swapped[1] / 2)
    np.testing.assert_array_equal(swapped[5:], x[5:])
    np.testing.assert_array_equal(swapped[0], -x[0])


def test_lengths_rates_and_lost_leads():
    x = ecg()
    assert applied("shorter", "2.5 s", x).shape == (12, 625)
    slow = applied("recorded at", "100 Hz", x)
    spectrum = np.abs(np.fft.rfft(slow[0]))
    assert slow.shape == x.shape and spectrum[np.fft.rfftfreq(2500, 1 / FS) > 51].max() < 1e-6
    flat = applied("flat", "V1 to V6", x)
    assert not flat[6:].any() and (flat[:6] == x[:6]).all()


@pytest.mark.parametrize(
    ("leads", "swapped"),
    [
        (("II",), []),
        (("I",), ["left and right arm"]),
        (("I", "II"), ["left and right arm"]),
        (("aVL", "V1"), []),
        (("aVF", "V1", "V2"), ["V1 and V2"]),
        (LEADS[:6], ["left and right arm"]),
    ],
)
def test_only_what_the_leads_can_show_is_tried(leads, swapped):
    rows = panel(FS, leads)
    assert [row.strength for row in rows if row.kind == "swapped"] == swapped
    x = ecg()
    x[2] = x[1] - x[0]
    x[3], x[4], x[5] = -(x[0] + x[1]) / 2, x[0] - x[1] / 2, x[1] - x[0] / 2
    chosen, random = [LEADS.index(lead) for lead in leads], np.random.default_rng(0)
    for row in rows[1:]:
        changed = row.apply(x[chosen], FS, leads, random)
        assert changed.shape != x[chosen].shape or (changed != x[chosen]).any(), row
    for name in swapped:  # as in the record of all twelve leads
        ours = applied("swapped", name, x[chosen], leads)
        np.testing.assert_allclose(ours, applied("swapped", name, x)[chosen], atol=1e-12)


def test_the_panel_of_weights_on_their_test_records(tmp_path):
    weights = next(small_store.trained_signal().rglob("fold3_bestROC.pth"))
    for folder in ("one", "two"):
        run(script.main, "--weights", weights, "--output_dir", tmp_path / folder, "--gpu", "cpu")
    one, two = (pd.read_csv(tmp_path / name / "robustness.csv") for name in ("one", "two"))
    assert one.equals(two) and len(one) == len(panel(100))
    metrics = pd.read_csv(weights.parent / "fold3" / "test_metrics.csv").iloc[0]
    assert one["score"][0] == pytest.approx(metrics["AUROC"], abs=1e-4)
    assert one["difference"][0] == 0 and (one["difference"] != 0).any()
    assert (tmp_path / "one" / "robustness.png").stat().st_size > 10_000

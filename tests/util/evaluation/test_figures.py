"""Figures: true to scale, safe with gaps, and without pyplot."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from util.evaluation.figures import plot_ecg, plot_reconstruction
from util.leads import LEADS

PIXELS_PER_MM = 120 / 25.4


def ink(path):
    """Where the picture is nearly black: bool (rows, columns)."""
    return imread(path)[:, :, :3].max(axis=2) < 0.35


def test_one_millivolt_is_ten_mm_and_one_second_is_25_mm(tmp_path):
    signal = np.zeros((4 * 500, 1))
    signal[500:1000] = 1.0  # 1 mV for 1 s
    plot_ecg(signal, 500, tmp_path / "step.png", lead_names=("II",), seconds=4)
    dark = ink(tmp_path / "step.png")
    # the two levels of the trace
    long_rows = np.flatnonzero(dark.sum(axis=1) > 15 * PIXELS_PER_MM)
    assert np.ptp(long_rows) == pytest.approx(10 * PIXELS_PER_MM, abs=2)
    top = np.flatnonzero(dark[long_rows[0]])
    top = top[top > 14 * PIXELS_PER_MM]  # right of the calibration pulse
    assert np.ptp(top) == pytest.approx(25 * PIXELS_PER_MM, abs=3)
    assert dark.shape[1] == pytest.approx((12 + 5 + 2 + 100) * PIXELS_PER_MM, abs=2)


def test_paper_has_lines_every_mm_and_every_five_mm(tmp_path):
    plot_ecg(np.zeros((500, 1)), 500, tmp_path / "paper.png", lead_names=("I",), seconds=1)
    row = imread(tmp_path / "paper.png")[6, :, 1]  # green, along a row without traces
    lines = np.flatnonzero((row[1:-1] < row[:-2]) & (row[1:-1] <= row[2:])) + 1
    assert np.median(np.diff(lines)) == pytest.approx(PIXELS_PER_MM, abs=1)
    thick = lines[row[lines] < 0.75]
    assert np.median(np.diff(thick)) == pytest.approx(5 * PIXELS_PER_MM, abs=2)


def test_twelve_leads_are_laid_out_three_by_four_with_a_rhythm_strip(tmp_path):
    time = np.arange(5000) / 500
    signal = np.zeros((5000, 12))
    signal[:, LEADS.index("V4")] = np.sin(2 * np.pi * 5 * time)  # upper right quarter only
    plot_ecg(signal, 500, tmp_path / "ecg.png", title="one busy lead")
    dark = ink(tmp_path / "ecg.png")
    left = int((6 + 5 + 2) * PIXELS_PER_MM)
    quarter = int(62.5 * PIXELS_PER_MM)
    rows = slice(int(15 * PIXELS_PER_MM), int(40 * PIXELS_PER_MM))
    amount = [
        dark[rows, left + k * quarter + 60 : left + (k + 1) * quarter - 5].sum() for k in range(4)
    ]
    assert amount[3] > 4 * max(amount[:3])
    assert dark.shape[0] == pytest.approx((12 + 4 * 30 + 8) * PIXELS_PER_MM, abs=2)


@pytest.mark.parametrize("count", [1, 2, 6, 11, 12])
def test_any_number_of_leads_in_any_order_with_gaps(tmp_path, count):
    names = LEADS[::-1][:count]
    signal = np.random.default_rng(0).standard_normal((700, count)) * 0.1
    signal[100:200, 0] = np.nan
    signal[:, -1] = np.nan
    with np.errstate(all="raise"):
        plot_ecg(signal, 257, tmp_path / "gaps.png", lead_names=names)
    assert imread(tmp_path / "gaps.png").ndim == 3


def test_wrong_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="12 leads"):
        plot_ecg(np.zeros((12, 5000)), 500, tmp_path / "no.png")
    with pytest.raises(ValueError, match="2 leads, time"):
        plot_reconstruction(
            np.zeros((2, 9)), np.zeros((2, 8)), np.zeros((2, 9), bool), 100, lead_names=("I", "II")
        )


def test_reconstruction_is_drawn_where_the_signal_was_hidden(tmp_path):
    time = np.arange(1000) / 250
    signal = np.stack([np.sin(time), np.cos(time)])
    mask = np.zeros((2, 1000), bool)
    mask[0, 75:150] = mask[0, 300:450] = mask[1, 925:] = True
    figure = plot_reconstruction(signal, signal + 1, mask, 250, lead_names=("I", "V6"))
    figure.savefig(tmp_path / "mae.png")
    assert (tmp_path / "mae.png").stat().st_size > 5000
    first, second = figure.axes
    assert [axis.get_ylabel() for axis in (first, second)] == ["I", "V6"]
    shades = [
        sorted(patch.get_extents().bounds[0] for patch in axis.patches) for axis in (first, second)
    ]
    assert [len(shade) for shade in shades] == [2, 1]
    spans = [
        sorted((p.get_x(), p.get_x() + p.get_width()) for p in axis.patches)
        for axis in (first, second)
    ]
    assert np.allclose(spans[0], [(0.3, 0.6), (1.2, 1.8)]) and np.allclose(spans[1], [(3.7, 4.0)])
    recorded, guessed = (line.get_ydata() for line in first.lines)
    assert np.allclose(recorded, signal[0])
    assert np.array_equal(np.isnan(guessed), ~mask[0]) and np.allclose(
        guessed[mask[0]], (signal[0] + 1)[mask[0]]
    )


def test_pyplot_is_never_loaded():
    root = Path(__file__).resolve().parents[3]
    code = (
        "import sys, numpy as np; from util.evaluation.figures import plot_reconstruction; z = "
        "np.zeros((1, "
        "9));plot_reconstruction(z, z, z > 0, 100, lead_names=('I',)); print('matplotlib.pyplot' "
        "in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_no_wave_hides_a_name_and_tall_waves_are_not_cut():
    signal = np.zeros((1000, 12))
    signal[::100] = 3.0  # mV
    axes = plot_ecg(signal, 100)
    tops = [np.max(line.get_ydata()) for line in axes.lines]
    baselines = axes.get_yticks()
    for text in axes.texts:
        if text.get_text() in LEADS:
            below = baselines[baselines < text.get_position()[1]].max()
            assert text.get_position()[1] >= below + 30
    assert max(tops) >= baselines.max() + 30
    assert [label.get_text() for label in axes.get_yticklabels()][0] == "I aVR V1 V4"


def test_a_page_that_would_grow_out_of_hand_has_a_smaller_gain():
    def footer(peak):
        signal = np.zeros((1000, 12))
        signal[::100], signal[50::100] = peak, -peak
        axes = plot_ecg(signal, 100, stacked=True)
        return next(t.get_text() for t in axes.texts if "mm/s" in t.get_text())

    assert [footer(peak) for peak in (0.5, 2, 4, 50)] == [
        "25 mm/s   10 mm/mV   100 Hz",
        "25 mm/s   5 mm/mV   100 Hz",
        "25 mm/s   2.5 mm/mV   100 Hz",
        "25 mm/s   2.5 mm/mV   100 Hz   cut at 40 mV",
    ]


def test_shades_lie_behind_their_samples_and_given_axes_are_drawn_on(tmp_path):
    signal, shades = np.zeros((400, 2)), np.zeros((400, 2))
    shades[100:200, 0], shades[200:300, 0], shades[:100, 1] = 1, -1, np.nan
    first = plot_ecg(signal, 100, lead_names=("I", "II"), shades=shades)
    axes = Figure().add_axes((0, 0, 1, 1))
    assert plot_ecg(signal, 100, lead_names=("I", "II"), shades=shades, axes=axes) is axes
    blue, orange, grey = axes.images
    assert np.flatnonzero(blue.get_array()[0, :, 3]).tolist() == list(range(100, 200))
    assert np.flatnonzero(orange.get_array()[0, :, 3]).tolist() == list(range(200, 300))
    assert np.flatnonzero(grey.get_array()[0, :, 3]).tolist() == list(range(100))
    assert len(first.images) == 3 and blue.get_extent()[3] > orange.get_extent()[3]
    with pytest.raises(ValueError, match="must have the signal's shape"):
        plot_ecg(signal, 100, lead_names=("I", "II"), shades=shades.T)
    plot_ecg(signal, 100, tmp_path / "page.pdf", lead_names=("I", "II"))
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")

"""The page of one recording: what it says, and that nothing on it hides anything."""

import math
from pathlib import Path

import numpy as np
import pytest

from util.evaluation.figures import save_figure
from util.leads import LEADS
from util.predicting.page import MOST, RESEARCH, Bar, Words, draw_page
from util.predicting.recordings import Entry
from util.recordings.recording import Recording

WORDS = Words(
    diagnoses=["sinus tachycardia", "bradycardia"],
    contradictions=["sinus tachycardia with bradycardia"],
    decided="by F1 on the selection fold",
    model="xresnet1d50, best-AUROC.pth",
    date="2026-01-02",
    is_regression=False,
    unsure=["bradycardia"],
    certainty=["90% label sets: present: " + ", ".join(["left bundle branch block"] * 9)],
)


def entry(seconds=10.0, fs=500, leads=LEADS, millivolts=1.0, name="R1", **about):
    t = np.arange(int(seconds * fs)) / fs
    beat = millivolts * np.exp(-((((t % 0.8) - 0.4) / 0.015) ** 2))
    signal = np.repeat(beat[:, None], len(leads), axis=1).astype(np.float32)
    shown = Recording(signal, tuple(leads), fs, **about)
    remarks = ["a remark " * 30]
    return Entry(name, Path("x.hea"), remarks, {}, {}, shown, seconds, about and 75.0 or None)


def bars(count, output=()):
    return [
        Bar(f"class {c} $x", 0.9 - 0.8 * c / count, 0.4, c in output, c == 1) for c in range(count)
    ]


def texts(figure):
    return [text for axes in figure.axes for text in axes.texts if text.get_text()]


def overlapping(figure):
    """Pairs of texts of which one hides a part of the other."""
    figure.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    return [
        (one, other)
        for n, (one, box) in enumerate(boxes)
        for other, second in boxes[n + 1 :]
        if box.shrunk(1, 0.8).overlaps(second.shrunk(1, 0.8))
    ]


def cut(figure):
    """Texts that leave the page."""
    figure.canvas.draw()
    page = figure.bbox
    return [
        text.get_text()
        for text in texts(figure)
        if text.get_window_extent().x0 < page.x0 or text.get_window_extent().x1 > page.x1
    ]


@pytest.mark.parametrize(
    "given",
    [
        entry(age=63.0, sex="Female"),
        entry(seconds=2.2, fs=257),
        entry(leads=("I",), fs=300),
        entry(millivolts=7.0, age=1.5, sex="Male"),
        entry(name="n" * 100),
    ],
    ids=["usual", "short", "one lead", "tall", "long name"],
)
def test_no_word_hides_another_or_leaves_the_page(given):
    figure = draw_page(given, WORDS, bars(24, output=(0, 1, 20)))
    assert not overlapping(figure) and not cut(figure)
    said = " ".join(text.get_text() for text in texts(figure))
    assert "90% label sets" in said
    for part in (RESEARCH, given.record, "Contradictory", "2026-01-02", "best-AUROC.pth", "by F1"):
        assert part in said
    assert f"{given.shown.fs:g} Hz" in said and ("63 years" in said) == (given.shown.age == 63)
    assert ("heart rate 75/min" in said) == (given.beats is not None)


def test_tall_waves_are_whole_and_within_the_paper():
    figure = draw_page(entry(millivolts=7.0), WORDS, bars(3))
    paper = figure.axes[0]
    height = paper.get_ylim()[1]
    for line in paper.lines:
        y = line.get_ydata()
        assert np.nanmin(y) > 0 and np.nanmax(y) < height
    assert max(np.ptp(line.get_ydata()) for line in paper.lines) == pytest.approx(7 * 5, rel=0.02)


def test_bars_are_the_outputs_and_the_likeliest_others():
    figure = draw_page(entry(), WORDS, bars(40, output=(0, 39)))
    axes = figure.axes[-1]
    assert len(axes.patches) == MOST
    names = [text.get_text() for text in axes.texts]
    assert "class 39 $x" in names and "class 0 $x" in names and "class 20 $x" not in names
    every = draw_page(entry(), WORDS, bars(30, output=range(20))).axes[-1]
    assert len(every.patches) == 20 + 3
    assert [line.get_xdata()[0] for line in every.lines] == [0.4] * 23


def test_numbers_of_a_regression_and_a_pdf(tmp_path):
    words = Words([], [], "predicted numbers", "m, w.pth", "2026-01-02", is_regression=True)
    numbers = [Bar("age", 63.25, None, True, False), Bar("weight", math.pi, None, True, False)]
    figure = draw_page(entry(), words, numbers)
    said = [text.get_text() for text in texts(figure)]
    assert "63.25" in said and "3.142" in said and not any("Model says" in each for each in said)
    save_figure(figure, tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")

"""Explanations on ECG paper: the trace, shaded where it counted, each lead and each time."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter1d

from util.evaluation.figures import (
    AGAINST,
    FOR,
    INK,
    MARGIN,
    MM_PER_SECOND,
    START,
    new_figure,
    plot_ecg,
)
from util.explain.attribution import Explanation

BARS, PROFILE, FOOT = 54, 26, 20  # mm: the leads' bars, the course over time, the words below
SMOOTH = 0.08  # seconds over which shades are averaged, as gradients jump from sample to sample
WORDS = {
    "occlusion": "hidden: windows of one lead (shades), of all leads (course), whole leads (bars)",
    "integrated gradients": "gradients from flat leads to the record, 32 Gauss-Legendre steps",
    "attention": "what patches get from all patches in the last block, mean of its heads",
}


def draw_explanation(
    signal_mv: np.ndarray,
    fs: float,
    leads: tuple[str, ...],
    explanation: Explanation,
    *,
    title: str,
    unit: str,
) -> Figure:
    """Draw one explanation of one record.

    Args:
        signal_mv: (leads, samples), at the network's rate.
        fs: that rate in Hz.
        leads: their names.
        explanation: of it.
        title: above it, in one line or two.
        unit: of the explained number.
    """
    jumps = explanation.method == "integrated gradients"
    smooth = round(SMOOTH * fs) if jumps else 1
    shades = _scaled(_smooth(explanation.trace, smooth))
    seconds = signal_mv.shape[1] / fs
    paper = plot_ecg(
        signal_mv.T,
        fs,
        lead_names=leads,
        seconds=seconds,
        stacked=True,
        shades=shades.T,
        title=title,
    )
    width, height = paper.get_xlim()[1], paper.get_ylim()[1]
    whole_width, whole_height = width + BARS, height + PROFILE + FOOT
    figure = new_figure(whole_width, whole_height)
    below = PROFILE + FOOT

    def place(left: float, bottom: float, wide: float, high: float) -> Axes:
        return figure.add_axes(
            (left / whole_width, bottom / whole_height, wide / whole_width, high / whole_height)
        )

    plot_ecg(
        signal_mv.T,
        fs,
        lead_names=leads,
        seconds=seconds,
        stacked=True,
        shades=shades.T,
        title=title,
        axes=place(0, below, width, height),
    )
    _bars(place(width + 4, below, BARS - 14, height), paper, explanation.leads)
    course = _smooth(explanation.profile[None], smooth)[0]
    _course(place(START, FOOT + 5, seconds * MM_PER_SECOND, PROFILE - 8), course, fs)
    _key(figure, explanation, unit, MARGIN / whole_width, whole_height)
    return figure


def draw_between(between: np.ndarray, leads: tuple[str, ...], title: str) -> Figure:
    """Draw how much of each lead's attention goes to each lead.

    Args:
        between: (leads, leads), rows attend to columns.
        leads: their names.
        title: above it.
    """
    figure = new_figure(40 + 10 * len(leads), 40 + 9 * len(leads))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    image = axes.imshow(between, cmap="Blues", vmin=0)
    axes.set_xticks(range(len(leads)), leads, fontsize=8)
    axes.set_yticks(range(len(leads)), leads, fontsize=8)
    axes.set_xlabel("... to patches of", fontsize=8)
    axes.set_ylabel("attention of patches of ...", fontsize=8)
    half = between.max() / 2
    for (row, column), share in np.ndenumerate(between):
        colour = "white" if share > half else INK
        text = f"{100 * share:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(image, ax=axes, fraction=0.046)
    bar.set_label("share (numbers in the cells: %)", fontsize=8)
    bar.ax.tick_params(labelsize=9)
    axes.set_title(title, fontsize=8)
    return figure


def _smooth(trace: np.ndarray, samples: int) -> np.ndarray:
    """Means over some samples; NaN stays NaN."""
    smooth = uniform_filter1d(np.nan_to_num(trace), max(samples, 1), axis=1, mode="nearest")
    return np.where(np.isnan(trace), np.nan, smooth)


def _scaled(trace: np.ndarray) -> np.ndarray:
    """Shades: the strongest hundredth is full, so that one sample does not pale the others."""
    top = np.nanquantile(np.abs(trace), 0.99) or np.nanmax(np.abs(trace))
    return np.clip(trace / top, -1, 1) if top > 0 else trace


def _colours(values: np.ndarray) -> list[tuple[float, float, float]]:
    return [FOR if value >= 0 else AGAINST for value in values]


def _bars(axes: Axes, paper: Axes, values: np.ndarray) -> None:
    """A bar beside each lead's row."""
    axes.barh(paper.get_yticks(), values, height=6, color=_colours(values))
    axes.axvline(0, ymax=0.97, color=INK, linewidth=0.6)
    axes.set_ylim(paper.get_ylim())
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    room = 0.45 * ((high - low) or 1.0)
    axes.set_xlim(low - room * (low < 0), high + room * (high > 0))
    for y, value in zip(paper.get_yticks(), values):
        side = "left" if value >= 0 else "right"
        text = f" {value:+.2g} " if low < 0 else f" {value:.2g} "
        axes.text(value, y, text, fontsize=9, va="center", ha=side)
    axes.text(
        0.5,
        1 - 8 / np.ptp(paper.get_ylim()),
        "whole lead",
        fontsize=8,
        ha="center",
        transform=axes.transAxes,
    )
    axes.set_axis_off()


def _course(axes: Axes, values: np.ndarray, fs: float) -> None:
    """The course over time, below the traces."""
    time = np.arange(len(values)) / fs
    for sign, colour in ((1, FOR), (-1, AGAINST)):
        part = np.clip(np.nan_to_num(values) * sign, 0, None) * sign
        axes.fill_between(time, part, step="mid", color=colour, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.5)
    axes.set_xlim(0, len(values) / fs)
    axes.tick_params(labelsize=9)
    axes.set_xlabel("seconds", fontsize=9, labelpad=1)
    axes.set_title("all leads together", fontsize=9, pad=2)
    axes.locator_params(axis="y", nbins=3)
    axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    axes.yaxis.offsetText.set_fontsize(9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _key(figure: Figure, explanation: Explanation, unit: str, left: float, height: float) -> None:
    """What the colours mean, and how far the picture can be trusted."""
    lines = [
        f"{explanation.method}: {WORDS[explanation.method]}",
        f"of the {unit}; blue: for it    orange, at a row's foot: against it    grey: not seen",
        trust(explanation),
    ]
    if explanation.method == "attention":
        lines[1] = "shares of the attention; blue: attended to    grey: not seen"
    for number, line in enumerate(lines):
        y = (FOOT - 7 - 4 * number) / height
        figure.text(left, y, line, fontsize=9.5, va="top", color=INK)
    figure.text(
        0.985, 3 / height, "research use only", fontsize=9.5, ha="right", va="bottom", color=INK
    )


def trust(explanation: Explanation) -> str:
    """Return the sentence on how far an explanation can be trusted."""
    likeness = f"check: correlation with shuffled weights {explanation.random:.2f}"
    likeness += " (near 1: the picture shows the signal, not what was learned)"
    if np.isnan(explanation.random):
        likeness = "check: with shuffled weights nothing counts anywhere"
    if np.isnan(explanation.change):
        return likeness
    total, change = f"{explanation.total:+.3g}", f"{explanation.change:+.3g}"
    return f"{likeness}; sum of the parts {total}, all leads flat {change}"

"""ECGs on paper, for people: 25 mm/s, 10 mm/mV, one small square 40 ms by 0.1 mV.

Figures are made without pyplot, so that they neither need a display nor leave anything behind in
the process.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from util.files import replacing
from util.leads import LEADS

MM_PER_SECOND = 25
GAINS = (10, 5, 2.5)  # mm per mV: the first at which the page does not grow out of hand
HIGHEST = 240  # mm of rows together, more where there are many
MM_PER_INCH = 25.4
THIN, THICK, INK = "#f8d3d3", "#ee9c9c", "#151515"
MARGIN = 6  # mm of paper around the traces
# mm and mV: 1 mV before each row, for calibration
PULSE = np.array([[0, 1, 1, 4, 4, 5], [0, 0, 1, 1, 0, 0]])
START = MARGIN + 5 + 2  # mm: where the traces begin
TITLE = 8  # mm above the rows
LANE = 5  # mm above each row's highest wave for the leads' names, which no wave can hide
TALLEST = 100  # mm of a wave, 10 mV or more; what is beyond is cut, and the page says so
FOR, AGAINST, UNSEEN = (0.0, 0.32, 0.72), (0.85, 0.45, 0.0), (0.55, 0.55, 0.55)  # shades
CLINICAL = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this many mm that needs no display."""
    figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PDF where the name says so, else as PNG."""
    with replacing(path) as file:
        figure.savefig(file, format="pdf" if Path(path).suffix == ".pdf" else "png")


def _paper(axes: Axes, width: float, height: float) -> None:
    """Put ECG paper of this many mm on axes, which count in mm from then on."""
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    for step, colour, line in ((1, THIN, 0.4), (5, THICK, 0.6)):
        across = [[(0, y), (width, y)] for y in np.arange(0, height + 0.1, step)]
        upright = [[(x, 0), (x, height)] for x in np.arange(0, width + 0.1, step)]
        axes.add_collection(
            LineCollection(across + upright, colors=colour, linewidths=line, zorder=0)
        )


@dataclass(frozen=True)
class _Part:
    """A stretch of a lead in a row: its name, first and last sample, and its trace in mV."""

    lead: str
    first: int
    last: int
    trace: np.ndarray


def _rows(signal: np.ndarray, leads: Sequence[str], *, stacked: bool) -> list[list[_Part]]:
    """Rows of a page: of 12 leads the clinical 3 x 4 with II below, unless ``stacked``, else one
    for each lead.
    """
    quarters = np.rint(np.linspace(0, len(signal), 5)).astype(int)
    layout = [[(lead, 0, len(signal))] for lead in leads]
    if set(leads) == set(LEADS) and not stacked:
        layout = [list(zip(row, quarters, quarters[1:])) for row in CLINICAL]
        layout.append([("II", 0, len(signal))])
    return [
        [
            _Part(lead, first, last, signal[first:last, leads.index(lead)])
            for lead, first, last in row
        ]
        for row in layout
    ]


def _fit(rows: list[list[_Part]], least: float) -> tuple[float, list[tuple[float, float]]]:
    """The gain in mm per mV, and the millimetres of each row above and below its baseline,
    together ``least`` at the least.
    """
    room = max(HIGHEST, 1.5 * least * len(rows))
    for gain in GAINS:
        reaches = []
        for row in rows:
            waves = np.concatenate([part.trace[np.isfinite(part.trace)] for part in row])
            waves = np.clip(waves * gain, -TALLEST, TALLEST)
            above = LANE + np.max(waves, initial=0)
            reaches.append((max(least / 2, above), max(least / 2, 1 - np.min(waves, initial=0))))
        if np.sum(reaches) <= room:
            break
    return gain, reaches


def _shade(axes: Axes, shades: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Colour a stretch of a row by shades (samples,): see ``plot_ecg``."""
    left, right, bottom, top = extent
    strong = np.nan_to_num(np.clip(np.abs(shades), 0, 1)) * 0.75
    unseen = np.where(np.isnan(shades), 0.25, 0)
    lower = bottom + 0.25 * (top - bottom)
    for colour, opacity, upper in (
        (FOR, np.where(shades > 0, strong, 0), top),
        (AGAINST, np.where(shades < 0, strong, 0), lower),
        (UNSEEN, unseen, top),
    ):
        if opacity.any():
            colours = np.broadcast_to([*colour, 0.0], (1, len(shades), 4)).copy()
            colours[0, :, 3] = opacity
            axes.imshow(
                colours,
                extent=(left, right, bottom, upper),
                aspect="auto",
                interpolation="nearest",
                zorder=1,
            )


def plot_ecg(
    signal_mv: np.ndarray,
    fs: float,
    path: str | os.PathLike | None = None,
    title: str | None = None,
    lead_names: Sequence[str] = LEADS,
    seconds: float = 10,
    *,
    stacked: bool = False,
    shades: np.ndarray | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw an ECG as a cardiologist reads it.

    Rows grow with their waves: none is cut (below 10 mV) and none hides a lead's name.  Where the
    page would grow out of hand, the gain is 5 or 2.5 mm/mV, as it says.

    Args:
        signal_mv: (samples, leads) in mV; NaN leaves a gap.  Every lead is drawn around its
            median.
        fs: sampling rate in Hz.
        path: of a PNG file, or of a PDF file by its name; None: nothing is written.
        title: above it.
        lead_names: the columns.  Twelve are laid out 3 x 4 with a rhythm strip of lead II, fewer
            are stacked.
        seconds: how much of the record to show, from its start.
        stacked: one row a lead, of twelve, too.
        shades: (samples, leads), a colour behind each sample: blue over the whole row up to 1,
            orange in its lowest quarter down to -1, grey for NaN.
        axes: where to draw; None: a new figure in true size.

    Returns:
        the axes, in mm: time 0 is at x = START, and the ticks of y, which are not drawn, are the
        rows' baselines with the names of their leads.

    Raises:
        ValueError: the signal has another number of leads, or the shades another shape.
    """
    signal = np.asarray(signal_mv, float)
    lead_names = tuple(lead_names)
    if signal.ndim != 2 or signal.shape[1] != len(lead_names):
        raise ValueError(
            f"signal of shape {signal.shape} does not fit (samples, {len(lead_names)} leads)"
        )
    if shades is not None and shades.shape != signal.shape:
        raise ValueError(f"shades {shades.shape} must have the signal's shape {signal.shape}")
    signal = signal[: int(round(seconds * fs))]
    # A lead without any value has the median 0, rather than a warning
    signal = signal - np.nanmedian(np.where(np.isnan(signal).all(axis=0), 0, signal), axis=0)
    rows = _rows(signal, lead_names, stacked=stacked)
    least = 20 if stacked else 25 if len(rows) > 6 else 30
    gain, reaches = _fit(rows, least)
    mm = MM_PER_SECOND / fs  # a sample
    width = START + len(signal) * mm + MARGIN
    height = 2 * MARGIN + TITLE + sum(above + below for above, below in reaches)
    if axes is None:
        axes = new_figure(width, height).add_axes((0, 0, 1, 1))
    _paper(axes, width, height)
    top, baselines = height - MARGIN - TITLE, []
    for row, (above, below) in zip(rows, reaches):
        baseline, bottom = top - above, top - above - below
        baselines.append(baseline)
        axes.plot(MARGIN + PULSE[0], baseline + gain * PULSE[1], color=INK, linewidth=0.7)
        for part in row:
            x = START + part.first * mm
            if shades is not None:
                extent = (x, START + part.last * mm, bottom, top)
                column = lead_names.index(part.lead)
                _shade(axes, shades[part.first : part.last, column], extent)
            time = x + np.arange(len(part.trace)) * mm
            wave = np.clip(gain * part.trace, -TALLEST, TALLEST)
            axes.plot(time, baseline + wave, color=INK, linewidth=0.7)
            axes.text(x + 1, top - LANE + 1, part.lead, fontsize=9, color=INK, va="bottom")
        top = bottom
    axes.set_yticks(baselines, [" ".join(part.lead for part in row) for row in rows])
    scale = f"25 mm/s   {gain:g} mm/mV   {fs:g} Hz"
    if gain * np.nanmax(np.abs(signal), initial=0) > TALLEST:
        scale += f"   cut at {TALLEST / gain:g} mV"
    axes.text(MARGIN, height - 4, title or "", fontsize=9, va="top")
    axes.text(width - MARGIN, 2, scale, fontsize=7, ha="right")
    if path is not None:
        save_figure(axes.get_figure(root=True), path)  # type: ignore[arg-type]
    return axes


def plot_reconstruction(
    signal: np.ndarray,
    reconstruction: np.ndarray,
    mask: np.ndarray,
    fs: float,
    lead_names: Sequence[str],
    title: str | None = None,
) -> Figure:
    """Draw one ECG, which parts of it were hidden, and the model's reconstruction.

    Args:
        signal: (leads, time), in mV or standardised.
        reconstruction: (leads, time), in the same unit.
        mask: bool (leads, time), True where the model did not see the signal; shaded.
        fs: sampling rate in Hz.
        lead_names: names of the leads.
        title: above it.

    Raises:
        ValueError: shapes differ.
    """
    signal, reconstruction, mask = (np.asarray(a) for a in (signal, reconstruction, mask))
    shape = (len(lead_names), signal.shape[-1])
    if any(array.shape != shape for array in (signal, reconstruction, mask)):
        raise ValueError(
            f"signal {signal.shape}, reconstruction {reconstruction.shape} and mask {mask.shape} "
            f"should all be ({len(lead_names)} leads, time)"
        )
    figure = Figure(figsize=(12, 1 + 1.1 * len(lead_names)), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lead_names), 1, sharex=True, squeeze=False)[:, 0]
    time = np.arange(signal.shape[1]) / fs
    for axis, name, line, guess, hidden in zip(
        axes, lead_names, signal, reconstruction, mask.astype(bool)
    ):
        axis.plot(time, line, color=INK, linewidth=0.8, label="recorded")
        axis.plot(
            time,
            np.where(hidden, guess, np.nan),
            color="#d62728",
            linewidth=0.9,
            label="reconstructed",
        )
        edges = np.flatnonzero(np.diff(hidden, prepend=False, append=False))
        for start, stop in zip(edges[::2], edges[1::2]):
            axis.axvspan(start / fs, stop / fs, color="#c9d6ea", linewidth=0, zorder=0)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.margins(x=0)
    figure.legend(handles=axes[0].lines, loc="outside upper right", ncols=2, fontsize=8)
    axes[-1].set_xlabel("seconds")
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure

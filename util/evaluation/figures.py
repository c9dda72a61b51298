"""ECGs on paper, for people: 25 mm/s, 10 mm/mV, one small square 40 ms by 0.1 mV.

Figures are made without pyplot, so that they neither need a display nor leave anything behind in
the process.
"""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from util.files import replacing
from util.leads import LEADS

MM_PER_SECOND, MM_PER_MV = 25, 10
MM_PER_INCH = 25.4
THIN, THICK, INK = "#f8d3d3", "#ee9c9c", "#151515"
MARGIN = 6  # mm of paper around the traces
# mm: 1 mV before each row, for calibration
PULSE = np.array([[0, 1, 1, 4, 4, 5], [0, 0, 10, 10, 0, 0]])
START = MARGIN + 5 + 2  # mm: where the traces begin
CLINICAL = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))


def _paper(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this many mm in true size, with an axis in mm and ECG paper on it."""
    figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, width), ylim=(0, height))
    axis.set_axis_off()
    for step, colour, line in ((1, THIN, 0.4), (5, THICK, 0.6)):
        across = [[(0, y), (width, y)] for y in np.arange(0, height + 0.1, step)]
        upright = [[(x, 0), (x, height)] for x in np.arange(0, width + 0.1, step)]
        axis.add_collection(
            LineCollection(across + upright, colors=colour, linewidths=line, zorder=0)
        )
    return figure, axis


def _rows(leads: Sequence[str], seconds: float) -> list[list[tuple[str, float, float]]]:
    """Rows of (lead, start, stop) in seconds: of 12 leads the clinical 3 x 4 with II below, else
    a stack.
    """
    if set(leads) != set(LEADS):
        return [[(lead, 0.0, seconds)] for lead in leads]
    quarter = seconds / 4
    quarters = [
        [(lead, k * quarter, (k + 1) * quarter) for k, lead in enumerate(row)] for row in CLINICAL
    ]
    return [*quarters, [("II", 0.0, seconds)]]


def plot_ecg(
    signal_mv: np.ndarray,
    fs: float,
    path: str | os.PathLike,
    title: str | None = None,
    lead_names: Sequence[str] = LEADS,
    seconds: float = 10,
) -> None:
    """Draw an ECG as a cardiologist reads it and write it as PNG.

    Args:
        signal_mv: (samples, leads) in mV; NaN leaves a gap.  Every lead is drawn around its
            median.
        fs: sampling rate in Hz.
        path: of the PNG file.
        title: above it.
        lead_names: the columns.  Twelve are laid out 3 x 4 with a rhythm strip of lead II, fewer
            are stacked.
        seconds: how much of the record to show, from its start.

    Raises:
        ValueError: the signal has another number of leads.
    """
    signal = np.asarray(signal_mv, float)
    lead_names = tuple(lead_names)
    if signal.ndim != 2 or signal.shape[1] != len(lead_names):
        raise ValueError(
            f"signal of shape {signal.shape} does not fit (samples, {len(lead_names)} leads)"
        )
    signal = signal[: int(round(seconds * fs))]
    # A lead without any value has the median 0, rather than a warning
    signal = signal - np.nanmedian(np.where(np.isnan(signal).all(axis=0), 0, signal), axis=0)
    seconds = len(signal) / fs
    rows = _rows(lead_names, seconds)
    row_height = 25 if len(rows) > 6 else 30
    width = START + seconds * MM_PER_SECOND + MARGIN
    height = 2 * MARGIN + row_height * len(rows) + 8
    figure, axis = _paper(width, height)
    for number, row in enumerate(rows):
        baseline = height - MARGIN - 8 - row_height * (number + 0.5)
        axis.plot(MARGIN + PULSE[0], baseline + PULSE[1], color=INK, linewidth=0.7)
        for lead, start, stop in row:
            first, last = int(round(start * fs)), int(round(stop * fs))
            trace = signal[first:last, lead_names.index(lead)]
            x = START + start * MM_PER_SECOND
            time = np.arange(len(trace)) / fs
            axis.plot(
                x + time * MM_PER_SECOND, baseline + trace * MM_PER_MV, color=INK, linewidth=0.7
            )
            axis.text(x + 1, baseline + 9, lead, fontsize=8, color=INK, va="bottom")
    axis.text(MARGIN, height - 4, title or "", fontsize=9, va="top")
    axis.text(width - MARGIN, 2, f"25 mm/s   10 mm/mV   {fs:g} Hz", fontsize=7, ha="right")
    with replacing(path) as file:
        figure.savefig(file, format="png")


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

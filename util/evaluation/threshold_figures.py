"""A picture of a threshold search: the Challenge score against the threshold of each class."""

import os

import numpy as np
from matplotlib.figure import Figure

from util.challenge import ABBREVIATIONS
from util.files import replacing
from util.scoring.thresholds import Thresholds, score_curve

COLUMNS = 6
# of the Challenge score, from the best down; a curve that falls further leaves its panel
SHOWN = 0.2


def plot_score_curves(
    labels: np.ndarray,
    scores: np.ndarray,
    found: Thresholds,
    path: str | os.PathLike,
    title: str,
) -> None:
    """Draw one panel a class: the Challenge score at its thresholds from 0 to 1, the others held
    at ``found``.

    A vertical line marks the threshold found, an asterisk the classes that share one (their line
    need not be at the panel's best, as they move together).  A flat curve says that the threshold
    of that class does not matter.

    Args:
        labels: bool (records, 24).
        scores: probabilities (records, 24).
        found: thresholds of a search, usually on these records.
        path: of the PNG file.
        title: above all panels.
    """
    thresholds = found.thresholds
    assert thresholds is not None, "a decoder without thresholds has no curves"
    candidates = np.linspace(0, 1, 201)
    curves = score_curve(labels, scores, thresholds, candidates)
    positives = np.sum(labels, axis=0)
    figure = Figure(figsize=(13, 8.5), layout="constrained")
    panels = figure.subplots(-(-len(ABBREVIATIONS) // COLUMNS), COLUMNS, sharex=True, sharey=True)
    for c, (panel, name) in enumerate(zip(panels.flat, ABBREVIATIONS)):
        panel.plot(candidates, curves[:, c], color="tab:blue")
        panel.axvline(np.clip(thresholds[c], 0, 1), color="tab:red", linewidth=1)
        star = "*" if c in found.shared else ""
        panel.set_title(f"{name}{star}: {_in_words(thresholds[c])}, n = {positives[c]}", fontsize=9)
        panel.grid(alpha=0.3)
    # of all panels, which share it
    panel.set_ylim(curves.max() - SHOWN, curves.max() + SHOWN / 10)
    figure.supxlabel("threshold")
    figure.supylabel("Challenge score")
    figure.suptitle(title)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _in_words(threshold: float) -> str:
    """The threshold for a panel's title; beyond the probabilities it means always or never."""
    if threshold <= 0:
        return "always"
    return "never" if threshold > 1 else f"{threshold:.3f}"

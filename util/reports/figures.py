"""Figures of a report: curves of a run, ROC and precision-recall curves, reliability, confusion."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from util.scoring.predictions import Predictions

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
MOST_CURVES = 8  # classes in one panel
POINTS = 300  # of a curve
NO_SCORES = ("train_lr", "train_wd")


def _figure(panels: int, width: float = 4.0, height: float = 3.2) -> tuple[Figure, np.ndarray]:
    """A figure with panels side by side."""
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def plot_curves(logs: dict[str, list[dict]]) -> Figure:
    """Draw the loss and the scores of each epoch, a line a run; of a pre-training what it logs.

    Args:
        logs: the lines of each run's log.txt, by its name.
    """
    names = list(dict.fromkeys(name for lines in logs.values() for line in lines for name in line))
    losses = [name for name in ("train_loss", "valid_loss") if name in names]
    scores = [name for name in names if name.startswith("valid_") and name != "valid_loss"]
    if not scores:
        logged = [name for name in names if name.startswith(("probe_", "train_"))]
        scores = [name for name in sorted(logged) if name not in (*losses, *NO_SCORES)]
        scores = [name for name in scores if not name.endswith("_untrained")]
    panels = losses + scores[:2]
    figure, axes = _figure(len(panels), width=3.2, height=2.6)
    for axis, name in zip(axes, panels):
        for (run, lines), colour in zip(logs.items(), COLOURS * len(logs)):
            epochs = [line["epoch"] + 1 for line in lines if name in line]
            values = [line[name] for line in lines if name in line]
            axis.plot(epochs, values, color=colour, label=run, linewidth=1, marker=".", ms=3)
        axis.set(xlabel="epoch", title=name.replace("_", " "))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(color="#eee")
    if 1 < len(logs) <= MOST_CURVES:
        axes[-1].legend(fontsize=7)
    return figure


def plot_discrimination(test: Predictions) -> Figure:
    """Draw ROC and precision-recall curves of the most frequent classes."""
    figure, (roc, pr) = _figure(2)
    frequent = np.argsort(-(test.labels == 1).sum(axis=0), kind="stable")[:MOST_CURVES]
    for c, colour in zip(frequent, COLOURS):
        known = ~np.isnan(test.labels[:, c])
        order = np.argsort(-test.outputs[known, c], kind="stable")
        p, y = test.outputs[known, c][order], test.labels[known, c][order]
        if not 0 < y.sum() < len(y):
            continue
        ends = np.flatnonzero(np.append(p[1:] != p[:-1], True))
        true, false = np.cumsum(y == 1)[ends], np.cumsum(y == 0)[ends]
        shown = np.unique(np.linspace(0, len(ends) - 1, POINTS).astype(int))
        recall, alarm = true / true[-1], false / false[-1]
        precision = true / (true + false)
        style = {"color": colour, "linewidth": 1}
        roc.plot(np.append(0, alarm[shown]), np.append(0, recall[shown]), **style)
        pr.step(recall[shown], precision[shown], where="pre", label=test.classes[c], **style)
    roc.plot([0, 1], [0, 1], color="#bbb", linewidth=0.8, linestyle=":")
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    pr.set(xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.02))
    if pr.lines:
        figure.legend(handles=pr.lines, loc="outside right upper", fontsize=7)
    return figure


def plot_predicted(test: Predictions) -> Figure:
    """Draw predictions of a regression against labels, a panel a column, in the labels' units."""
    figure, axes = _figure(len(test.classes), width=3.4)
    for c, (axis, name) in enumerate(zip(axes, test.classes)):
        labels, outputs = test.labels[:, c], test.outputs[:, c]
        ends = [np.nanmin(labels), np.nanmax(labels)]
        axis.plot(ends, ends, color="#bbb", linewidth=0.8, linestyle=":")
        axis.scatter(labels, outputs, s=8, linewidths=0, alpha=0.6, color=COLOURS[0])
        axis.set(xlabel="labelled", ylabel="predicted", title=name)
        axis.grid(color="#eee")
    return figure


def plot_reliability(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw how often labels are 1 where the probability says so.

    Args:
        tables: of ``util.scoring.calibration.reliability``, by name.
    """
    figure, (axis,) = _figure(1)
    axis.plot([0, 1], [0, 1], color="#bbb", linewidth=0.8, linestyle=":")
    for (name, table), colour in zip(tables.items(), COLOURS):
        axis.plot(table["probability"], table["share"], color=colour, marker="o", ms=3, label=name)
    axis.set(xlabel="predicted probability", ylabel="share of positive labels")
    axis.legend(fontsize=7)
    axis.grid(color="#eee")
    return figure


def plot_gate(table: pd.DataFrame) -> Figure:
    """Draw how a gate weighs its branches, a bar a class.

    Args:
        table: of ``util.evaluation.evaluator.gate_table``.
    """
    figure, (axis,) = _figure(1, 6.0, 1.2 + 0.25 * len(table))
    names = [f"{row['class']} ({row['records']})" for _, row in table.iterrows()]
    left = np.zeros(len(table))
    for branch, colour in zip(("signal", "spectrogram"), COLOURS):
        weights = table[branch].to_numpy(float)
        axis.barh(names, weights, left=left, color=colour, label=branch, height=0.7)
        left += weights
    for place, weight in enumerate(table["signal"]):
        axis.text(0.01, place, f"{weight:.2f}", va="center", fontsize=8, color="white")
    axis.invert_yaxis()
    axis.set(xlabel="mean weight of the branch", xlim=(0, 1))
    axis.tick_params(labelsize=8)
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
    return figure


def plot_confusion(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw which class is taken for which, shares of each true class.

    Args:
        labels: int (records,).
        predicted: int (records,).
        classes: their names.
    """
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axis,) = _figure(1, 1.5 + 0.5 * len(classes), 1.2 + 0.45 * len(classes))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.set(xlabel="predicted", ylabel="true")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "#222"
        axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    return figure

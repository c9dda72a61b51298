"""Maps of embeddings: records as points, by diagnosis and by database."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from util.challenge import ABBREVIATIONS, CODE_TO_CLASS
from util.evaluation.figures import new_figure
from util.labels.tables import Labels

# of Okabe and Ito (2008), which are told apart without seeing red or green, and in print
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7f5f00", "#000000")
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
OTHER = "other"


def principal_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components (records, 2) of features (records, width), and
    their shares of the variance (2,).

    Each has the sign that makes its largest weight positive.
    """
    centred = features - features.mean(axis=0, dtype=float)
    left, scale, right = np.linalg.svd(centred, full_matrices=False)
    strongest = right[np.arange(len(right)), np.abs(right).argmax(axis=1)]
    points = left * scale * np.sign(strongest)
    total = np.sum(scale**2)
    return points[:, :2], scale[:2] ** 2 / (total if total > 0 else 1)


def layouts(features: np.ndarray) -> dict[str, tuple[np.ndarray, tuple[str, str]]]:
    """Return points (records, 2) and names of their axes by method: PCA, and UMAP where the
    package umap-learn is installed.
    """
    points, shares = principal_components(features)
    names = [f"component {n} ({share:.0%} of the variance)" for n, share in enumerate(shares, 1)]
    found = {"PCA": (points, (names[0], names[1]))}
    if find_spec("umap"):
        from umap import UMAP

        placed = UMAP(random_state=0).fit_transform(features)
        found["UMAP"] = (np.asarray(placed), ("UMAP 1", "UMAP 2"))
    return found


def diagnoses_of(cells: Sequence[str]) -> list[set[str]]:
    """Return the Challenge's abbreviations for cells of SNOMED CT codes, separated by blanks."""
    return [
        {ABBREVIATIONS[CODE_TO_CLASS[code]] for code in cell.split() if code in CODE_TO_CLASS}
        for cell in cells
    ]


def classes_of(labels: Labels, rows: np.ndarray) -> list[set[str]]:
    """Return the names of each record's classes; none where it has numbers instead of classes.

    Args:
        labels: of a store.
        rows: of it.
    """
    values = labels.values[rows]
    if labels.kind == "regression":
        return [set() for _ in rows]
    if labels.kind == "multiclass":
        return [{labels.classes[number]} if number >= 0 else set() for number in values]
    return [{name for name, y in zip(labels.classes, line) if y == 1} for line in values]


def main_names(found: Sequence[set[str]], most: int = len(COLOURS)) -> list[str]:
    """Return one name a record: the rarest of its own that are among the commonest ``most``.

    Args:
        found: names of each record.
        most: names apart from OTHER.
    """
    count = Counter(name for names in found for name in names)
    known = {name for name, _ in count.most_common(most)}
    return [
        min(names & known, key=lambda name: (count[name], name), default=OTHER) for names in found
    ]


def draw_map(
    points: np.ndarray,
    axis_names: tuple[str, str],
    groups: dict[str, Sequence[str]],
    title: str,
) -> Figure:
    """Draw the points once for each way to group them.

    Args:
        points: (records, 2).
        axis_names: of the map.
        groups: {title of a panel: the group of each record}.
        title: above it.
    """
    figure = new_figure(130 * len(groups), 145)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for panel, (name, members) in zip(panels, groups.items()):
        _scatter(panel, points, np.asarray(members))
        panel.set_title(name, fontsize=9)
        panel.set_xlabel(axis_names[0], fontsize=8)
        panel.set_ylabel(axis_names[1], fontsize=8)
        panel.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


def _scatter(panel: Axes, points: np.ndarray, members: np.ndarray) -> None:
    """The largest group first, so that it hides no other; OTHER below all in grey."""
    names = [name for name, _ in Counter(members.tolist()).most_common()]
    shown = [name for name in names if name != OTHER][: len(COLOURS)]
    rest = ~np.isin(members, shown)
    if rest.any():
        label = f"{OTHER} ({rest.sum()})"
        panel.scatter(
            points[rest, 0], points[rest, 1], s=6, color="#c4c4c4", linewidths=0, label=label
        )
    for name, colour, shape in zip(shown, COLOURS, SHAPES):
        chosen = members == name
        label = f"{name} ({chosen.sum()})"
        panel.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=11,
            color=colour,
            marker=shape,
            linewidths=0,
            alpha=0.8,
            label=label,
        )
    panel.legend(
        fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False
    )

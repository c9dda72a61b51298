"""report.html of a pre-training: what ran, its curves, and what it rebuilt."""

from pathlib import Path

from util.reports.figures import plot_curves
from util.reports.page import Page

PICTURES = "figures/reconstruction-*.png"


def pretraining_page(title: str, facts: dict[str, object], log: list[dict], folder: Path) -> Page:
    """Return the page of a pre-training.

    Args:
        title: of the page.
        facts: on it, for people.
        log: the lines of its log.txt.
        folder: of the run.
    """
    page = Page(title)
    page.facts(facts)
    page.section("Training")
    page.figure(plot_curves({"": log}))
    pictures = sorted(folder.glob(PICTURES))
    shown = dict.fromkeys([*pictures[:1], *pictures[-1:]])  # the first, and the last if another
    if shown:
        page.section("Reconstructions")
        page.text("One ECG; what was hidden is shaded, and what the model made of it is red.")
    for path in shown:
        page.picture(path.read_bytes(), f"after epoch {int(path.stem.rpartition('-')[2])}")
    return page

"""A table in words: Markdown with its place in RESULTS.md, LaTeX, and its numbers as CSV."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.tables.definition import Table
from experiments.tables.gates import gates_markdown
from experiments.tables.grid import Grid, as_latex, as_markdown
from experiments.tables.summary import Line, summarise
from experiments.tables.trainings import Settings
from util.config.load import ROOT
from util.errors import ConfigError
from util.files import replacing
from util.scoring.intervals import Estimate

MARKS = "<!-- table {name}: {edge} -->"
NAMED = "the row named"  # in a difference's cell, as rows are compared with different ones


def markdown(table: Table, settings: Settings | None = None) -> str:
    """Return the table as Markdown: the mean over folds and seeds of what has been run, its
    interval or why there is none, and how much higher the weights scored on the folds that chose
    them.

    Runs of an earlier definition of their row, and of several stores, are marked as such.

    Args:
        table: to show.
        settings: their overrides belong to today's definition of the rows.
    """
    lines = summarise(table, settings or Settings(""))
    parts = [table.about.strip(), as_markdown(grid_of(table, lines)), *remarks(lines)]
    text = "\n\n".join(parts)
    return "\n".join([text, *(gates_markdown(table) if table.runs == table.name else [])])


def latex(table: Table) -> str:
    """Return the table as a tabular in LaTeX, what is said of it as comments."""
    lines = summarise(table, Settings(""))
    said = " ".join([table.about.strip(), *remarks(lines)]).replace("\n", " ")
    return f"% {said}\n{as_latex(grid_of(table, lines))}"


def numbers(table: Table) -> pd.DataFrame:
    """Return the table's numbers, a row for each line."""
    return pd.DataFrame(
        {
            "row": line.row,
            "method": line.method,
            "runs": line.runs,
            "stale": line.stale,
            **columns(table.score, line.score),
            "no_interval": line.why,
            "against": line.against,
            **columns("difference", line.difference),
            "p": line.difference.p,
            **columns("selection_minus_test", line.gap),
        }
        for line in summarise(table, Settings(""))
    )


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """Return a number and its interval by the names of their columns."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def grid_of(table: Table, lines: list[Line]) -> Grid:
    """Return the cells of the table in words."""
    head = ["row", "runs", table.score, "95 % interval", f"difference to {reference(table)}"]
    grid = [[*head, "selection fold minus test fold"]]
    for line in lines:
        score = line.score
        interval = f"{score.low:.3f} to {score.high:.3f}" if not line.why else f"({line.why})"
        grid.append(
            [
                f"{line.row} {line.method}".strip() + " (stale)" * (line.stale > 0),
                f"{line.runs}",
                f"{score.value:.3f}",
                interval,
                difference_cell(table, line),
                gap_cell(line.gap),
            ]
        )
    return grid


def reference(table: Table) -> str:
    """Return what the table's differences are to, in words."""
    if table.methods:
        return table.methods[0]
    rows = {row.against for row in table.rows}
    return rows.pop() if len(rows) == 1 else NAMED


def difference_cell(table: Table, line: Line) -> str:
    """Return a difference in words, after the name of the other row where rows have others."""
    if not line.against:
        return ""
    text = line.difference.difference_text()
    return f"{line.against}: {text}" if reference(table) == NAMED else text


def gap_cell(gap: Estimate) -> str:
    """Return how much higher the weights scored on the folds that chose them."""
    if np.isnan(gap.value):
        return ""
    spread = "" if np.isnan(gap.low) else f" ({gap.low:+.3f} to {gap.high:+.3f})"
    return f"{gap.value:+.3f}{spread}"


def remarks(lines: list[Line]) -> list[str]:
    """Return what has to be said below the table."""
    said = []
    stale = sum(line.stale for line in lines)
    if stale:
        said.append(f"Stale: {stale} runs are of an earlier definition of their row.")
    stores: dict[int, set[str]] = defaultdict(set)  # by rate, as each has a fingerprint
    for line in lines:
        stores[line.fs] |= line.stores
    several = max(map(len, stores.values()), default=0)
    if several > 1:
        said.append(f"Runs of {several} different stores are in this table.")
    return said


def write_markdown(table: Table, page: Path = ROOT / "RESULTS.md") -> None:
    """Put the table between its two marks in RESULTS.md.

    Raises:
        ConfigError: the marks are missing.
    """
    begin, end = (MARKS.format(name=table.name, edge=edge) for edge in ("begin", "end"))
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ConfigError(
            f"{page} lacks the lines {begin} and {end}, between which the table goes; write them"
        )
    head, rest = text.split(begin, 1)
    with replacing(page) as file:
        file.write(f"{head}{begin}\n{markdown(table)}\n{end}{rest.split(end, 1)[1]}".encode())

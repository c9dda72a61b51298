"""A comparison as Markdown, LaTeX and CSV."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.tables.grid import Grid, as_latex, as_markdown
from util.files import write_frame, write_text


def write_tables(table: pd.DataFrame, folder: Path, remarks: Sequence[str]) -> str:
    """Write table.csv, table.md and table.tex; return the Markdown.

    Args:
        table: of ``compare``.
        folder: where they go.
        remarks: what was said of the encoders, for the Markdown.
    """
    grids = {
        f"{task}, {labels:g} % of the labels: {', '.join(part['score'].unique())}": grid_of(part)
        for (task, labels), part in table.groupby(["task", "labels"], sort=False)
    }
    compared = table[table["against"] != ""]
    if len(compared):
        grids["Differences"] = differences_of(compared)
    about = (
        "Mean over folds, with the 95 % interval over patients; after the slash, over the classes "
        "with ten or more positive test records. The row random is the mean over seeds of first "
        "weights, with their standard deviation. p is two-sided; Holm's correction is over all "
        f"{len(compared)} comparisons."
    )
    marked = "\n\n".join(f"## {title}\n\n{as_markdown(grid)}" for title, grid in grids.items())
    noted = "".join(f"- {remark}\n" for remark in remarks)
    text = f"{about}\n\n{marked}\n" + f"\n{noted}" * bool(noted)
    write_frame(folder / "table.csv", table, float_format="%.6g", na_rep="nan")
    write_text(folder / "table.md", text)
    tex = "\n\n".join(f"% {title}\n{as_latex(grid)}" for title, grid in grids.items())
    write_text(folder / "table.tex", f"% {about}\n\n{tex}\n")
    return text


def grid_of(part: pd.DataFrame) -> Grid:
    """Return encoders by modes of one task and share of the labels."""
    scores = part[part["against"] == ""]
    modes = list(scores["mode"].unique())
    grid = [["encoder", *modes]]
    for name, rows in scores.groupby("encoder", sort=False):
        cells = {row["mode"]: _score(row) for row in rows.to_dict("records")}
        grid.append([str(name), *(cells.get(mode, "") for mode in modes)])
    return grid


def _score(row: dict) -> str:
    text = f"{row['value']:.3f}"
    if not pd.isna(row["low"]):
        text += f" ({row['low']:.3f} to {row['high']:.3f})"
    if not pd.isna(row["spread"]):
        text += f" +- {row['spread']:.3f}"
    return text if pd.isna(row["value_common"]) else f"{text} / {row['value_common']:.3f}"


def differences_of(compared: pd.DataFrame) -> Grid:
    """Return a row for each comparison."""
    grid = [["task", "labels", "mode", "encoder", "minus", "difference", "p", "Holm's p"]]
    for row in compared.to_dict("records"):
        difference = f"{row['value']:+.3f}"
        if not pd.isna(row["low"]):
            difference += f" ({row['low']:+.3f} to {row['high']:+.3f})"
        chances = ["" if pd.isna(p) else f"{p:.2g}" for p in (row["p"], row["p_holm"])]
        about = [row["task"], f"{row['labels']:g} %", row["mode"], row["encoder"], row["against"]]
        grid.append([*about, difference, *chances])
    return grid

"""The numbers of a table, a line for each of its rows and methods, from its CSV files alone."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import t as student

from experiments.tables.definition import Row, Table
from experiments.tables.intervals import COMPARED, ROUNDING
from experiments.tables.results import by_this_definition, path_of, read_results, rows_of
from experiments.tables.trainings import Settings, base_of
from util.scoring.intervals import Estimate

FEW = 5  # with fewer folds no spread is given
NONE = Estimate(np.nan, np.nan, np.nan)


@dataclass
class Line:
    """What has been run of a row by one method.

    Attributes:
        row: its name.
        method: of thresholds; empty without.
        runs: how many.
        stale: how many of them an earlier definition of the row made.
        score: its mean over folds and seeds, with the interval where there is one.
        why: there is no interval; empty where there is one.
        against: the row or method with which it is compared; empty where it is with none.
        difference: to that, on the folds of both, with its interval where there is one.
        gap: how much higher the weights scored on the folds that chose them.
        fs: Hz of the store that it read.
        stores: their fingerprints.
    """

    row: str
    method: str
    runs: int
    stale: int
    score: Estimate
    why: str
    against: str
    difference: Estimate
    gap: Estimate
    fs: int
    stores: set[str] = field(default_factory=set)


def summarise(table: Table, settings: Settings) -> list[Line]:
    """Return a line for each row and method of which something has been run.

    Args:
        table: to show.
        settings: their overrides belong to today's definition of the rows.
    """
    results, intervals = read_results(table), _read_intervals(table)
    lines = []
    for row in table.rows:
        for method in table.methods or [""]:
            runs = rows_of(results, row.name, method)
            if not len(runs):
                continue
            stored = intervals.get((row.name, method), {})
            score, why = _score(table, row, runs, stored)
            against, difference = _difference(table, row, method, results, stored)
            lines.append(
                Line(
                    row=row.name,
                    method=method,
                    runs=len(runs),
                    stale=int((~by_this_definition(runs, row, settings)).sum()),
                    score=score,
                    why=why,
                    against=against,
                    difference=difference,
                    gap=optimism(runs, table.score),
                    fs=base_of(row, settings).dataset.fs,
                    stores=set(runs["store"]),
                )
            )
    return lines


def _read_intervals(table: Table) -> dict[tuple[str, str], dict]:
    """Read the rows of results/<table>.intervals.csv, by row and method."""
    path = path_of(table.name, "intervals.csv")
    if not path.is_file():
        return {}
    rows = pd.read_csv(path, keep_default_na=False, na_values=["nan"]).to_dict("records")
    return {(row["row"], row["method"]): row for row in rows}


def _score(table: Table, row: Row, runs: pd.DataFrame, stored: dict) -> tuple[Estimate, str]:
    """Return the mean score with its interval, and why there is none."""
    mean = float(runs[table.score].astype(float).mean())
    all_runs = len(row.folds) * len(table.seeds)
    alone = Estimate(mean, np.nan, np.nan)
    if len(runs) < all_runs:
        return alone, f"{len(runs)} of {all_runs} runs"
    if not _is_of(stored, "value", mean):
        return alone, "of other runs" if stored else "no predictions kept"
    if np.isnan(stored["low"]):
        return alone, "nothing can be drawn"
    return Estimate(mean, stored["low"], stored["high"]), ""


def _difference(
    table: Table, row: Row, method: str, results: pd.DataFrame, stored: dict
) -> tuple[str, Estimate]:
    """Return the name of what a row is compared with, and by how much it is above that."""
    against = stored.get("against", "")
    if not against:
        return "", NONE
    runs, others = (
        rows_of(results, row.name, one) if table.methods else rows_of(results, name, "")
        for name, one in ((row.name, method), (against, against))
    )
    shared = set(runs["fold"]) & set(others["fold"])
    mean, reference = (
        float(one[one["fold"].isin(shared)][table.score].astype(float).mean())
        for one in (runs, others)
    )
    if not _is_of(stored, COMPARED[0], mean - reference):
        return "", NONE
    return against, Estimate(*(stored[name] for name in COMPARED))


def _is_of(stored: dict, name: str, value: float) -> bool:
    """Return whether a number of the file of intervals is of these runs, up to rounding."""
    return name in stored and abs(stored[name] - value) <= 2 * ROUNDING


def optimism(runs: pd.DataFrame, name: str) -> Estimate:
    """Return the mean of selection minus test, with its 95 % interval where there are enough
    folds.

    The interval is Student's t over folds, each the mean of its seeds, which share their records.
    """
    if f"selection_{name}" not in runs or runs[f"selection_{name}"].isna().any():
        return NONE
    gap = runs[f"selection_{name}"].astype(float) - runs[name].astype(float)
    gaps = gap.groupby(runs["fold"]).mean().to_numpy()
    mean = float(gaps.mean())
    if len(gaps) < FEW:
        return Estimate(mean, np.nan, np.nan)
    reach = student.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return Estimate(mean, mean - reach, mean + reach)

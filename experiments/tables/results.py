"""What has been run of a table: results/<table>.csv, a row for each training and method.

Each says what made it (``origin_of``).  What another definition of the row, another store or
another encoder made is stale: it is not counted, and is run again.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.tables.definition import Row, Table
from experiments.tables.trainings import Settings, definition_of, origin_of
from util.config.load import ROOT
from util.files import write_frame

RESULTS = ROOT / "results"
KEY = ["row", "method", "seed", "fold"]
ORIGIN = ["definition", "store", "encoder"]


def path_of(name: str, kind: str = "csv") -> Path:
    """Return the path of results/<name>.<kind>."""
    return RESULTS / f"{name}.{kind}"


def read_results(table: Table) -> pd.DataFrame:
    """Read what has been run of a table."""
    return read_rows(path_of(table.runs), KEY, ORIGIN)


def read_rows(path: Path, key: list[str], origin: list[str]) -> pd.DataFrame:
    """Read a CSV of results; ``key`` tells its rows apart, ``origin`` says what made them."""
    if not path.is_file():
        return pd.DataFrame(columns=list(dict.fromkeys([*key, *origin])))
    text = dict.fromkeys([*origin, "revision"], str)  # 39e4096 is no number
    results = pd.read_csv(path, keep_default_na=False, na_values=["nan"], dtype=text)
    for name in origin:
        if name not in results:  # a file of before
            results[name] = ""
    return results


def add_results(table: Table, rows: list[dict]) -> None:
    """Append rows to results/<runs>.csv in place of those it has of the same trainings and
    methods; the file is whole at any time.
    """
    add_rows(path_of(table.runs), rows, KEY, ORIGIN)


def add_rows(path: Path, rows: list[dict], key: list[str], origin: list[str]) -> None:
    """Append rows to a CSV of results in place of those that have the same ``key``."""
    every = pd.concat([read_rows(path, key, origin), pd.DataFrame(rows)], ignore_index=True)
    every = every.drop_duplicates(key, keep="last")
    write_frame(path, every, float_format="%.6g", na_rep="nan")


def rows_of(results: pd.DataFrame, name: str, method: str, seed: int | None = None) -> pd.DataFrame:
    """Return the CSV's rows of one row of the table, by one seed or all."""
    chosen = results[(results["row"] == name) & (results["method"] == method)]
    return chosen if seed is None else chosen[chosen["seed"] == seed]


# ============ stale or not ============
def current_rows(
    results: pd.DataFrame, row: Row, method: str, settings: Settings, seed: int | None = None
) -> pd.DataFrame:
    """Return the CSV's rows of one row of the table that today's definition, store and encoder
    made, by one seed or all.
    """
    chosen = rows_of(results, row.name, method, seed)
    current = [not why_stale(one, row, settings) for one in chosen.to_dict("records")]
    return chosen[np.array(current, bool)]


def why_stale(result: dict, row: Row, settings: Settings) -> list[str]:
    """Return what a row of the CSV was made by that is no longer so, of ``ORIGIN``."""
    if result["fold"] not in row.folds:
        return ["fold"]
    origin = origin_of(row, result["seed"], result["fold"], settings)
    return [name for name, value in origin.items() if result[name] != value]


def by_this_definition(results: pd.DataFrame, row: Row, settings: Settings) -> pd.Series:
    """Return which results of a row its definition made, whatever the store, bool (results,)."""
    return results["definition"] == definition_of(row, settings)


def describe_stale(table: Table, settings: Settings) -> list[str]:
    """Return a line for each stale row of the CSV: of which cell, and what has changed."""
    results, lines = read_results(table), []
    named = {row.name: row for row in table.rows}
    for result in results.to_dict("records"):
        cell = " ".join(f"{name} {result[name]}" for name in KEY if result[name] != "")
        if result["row"] not in named:
            lines.append(f"{cell}: the table has no such row")
        elif changed := why_stale(result, named[result["row"]], settings):
            lines.append(f"{cell}: another {', '.join(changed)}")
    return lines

"""What has been run of a table: results/<table>.csv, a row for each training and method."""

from pathlib import Path

import pandas as pd

from experiments.tables.definition import Table
from util.config.load import ROOT
from util.files import write_frame

RESULTS = ROOT / "results"
KEY = ["row", "method", "seed", "fold"]


def path_of(name: str, kind: str = "csv") -> Path:
    """Return the path of results/<name>.<kind>."""
    return RESULTS / f"{name}.{kind}"


def read_results(table: Table) -> pd.DataFrame:
    """Read what has been run of a table."""
    path = path_of(table.runs)
    if not path.is_file():
        return pd.DataFrame(columns=KEY)
    return pd.read_csv(
        path,
        keep_default_na=False,
        na_values=["nan"],
        dtype={"revision": str},  # 39e4096 is no number
    )


def add_results(table: Table, rows: list[dict]) -> None:
    """Append rows to results/<runs>.csv in place of those it has of the same trainings and
    methods; the file is whole at any time.
    """
    every = pd.concat([read_results(table), pd.DataFrame(rows)], ignore_index=True)
    every = every.drop_duplicates(KEY, keep="last")
    write_frame(path_of(table.runs), every, float_format="%.6g", na_rep="nan")


def rows_of(results: pd.DataFrame, name: str, method: str, seed: int | None = None) -> pd.DataFrame:
    """Return the CSV's rows of one row of the table, by one seed or all."""
    chosen = results[(results["row"] == name) & (results["method"] == method)]
    return chosen if seed is None else chosen[chosen["seed"] == seed]

"""Reading the metadata of public data sets: files checked, tables by the key of a record.

A key is the name of a record in the metadata.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_preparation.building.folds import stratify
from util.errors import ConfigError
from util.files import is_unknown

FLAGS = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0, "": np.nan}


@dataclass(frozen=True)
class Metadata:
    """What a set says of its records.

    Attributes:
        labels: {name of a table: DataFrame by key}; columns are classes of 0, 1 and NaN
            (unknown), one column of words, or one of numbers.  A record that a table lacks takes
            no part in its task.
        splits: DataFrame by key, one row a record of the set: ``fold`` or ``split``, and
            ``patient`` ("" unknown).
        notes: sentences about what was left out or decided.
    """

    labels: dict[str, pd.DataFrame]
    splits: pd.DataFrame
    notes: list[str] = field(default_factory=list)


# ============ reading ============
def read_table(path: Path, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """Read a CSV file as text, its columns found without regard to case.

    Args:
        path: the file.
        columns: what it must have.
        options: of ``pandas.read_csv``.

    Raises:
        ConfigError: the file or a column is missing.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
    except FileNotFoundError:
        raise ConfigError(
            f"no {path.name} in {path.parent}: it comes with the data set; name its folder with "
            "--metadata"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is unreadable: {error}") from None
    known = {str(column).strip().lower(): column for column in table.columns}
    missing = [column for column in columns if column.lower() not in known]
    if missing or not len(table):
        what = f"has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}"
        raise ConfigError(f"{path} {what if missing else 'has no row'}: is it the published file?")
    return table.rename(columns={known[column.lower()]: column for column in columns})


def by_key(table: pd.DataFrame, key: str, path: Path) -> pd.DataFrame:
    """Return the table by its key, whole numbers without .0.

    Raises:
        ConfigError: a key occurs twice.
    """
    table = table.set_index(whole_texts(table[key]))
    if table.index.duplicated().any():
        raise ConfigError(f"{path}: {key} {table.index[table.index.duplicated()][0]} occurs twice")
    return table


def whole_texts(column: pd.Series) -> pd.Series:
    """Return texts without blanks around them, whole numbers without .0."""
    return column.str.strip().str.removesuffix(".0")


def patient_texts(column: pd.Series) -> pd.Series:
    """Return ids of patients as ``whole_texts``, "" where a word means that one is unknown."""
    texts = whole_texts(column)
    return texts.mask(texts.map(is_unknown), "")


def read_numbers(column: pd.Series, path: Path) -> pd.Series:
    """Return float64, NaN where a cell is empty.

    Raises:
        ConfigError: a cell is a word.
    """
    numbers = pd.to_numeric(column.replace("", np.nan), errors="coerce")
    bad = numbers.isna() & (column.str.strip() != "")
    if bad.any():
        raise ConfigError(
            f"{path}: {column.name} of {column.index[bad][0]} is no number: {column[bad].iloc[0]!r}"
        )
    return numbers.astype(float)


def read_flags(column: pd.Series, path: Path | str) -> pd.Series:
    """Return 1.0 for True or 1, 0.0 for False or 0, NaN where a cell is empty.

    Raises:
        ConfigError: a cell is anything else.
    """
    values = {text: FLAGS.get(text.strip().lower()) for text in column.unique()}
    strange = [text for text, value in values.items() if value is None]
    if strange:
        raise ConfigError(
            f"{path}: {column.name} of {column.index[column == strange[0]][0]} is neither true "
            f"nor false: {strange[0]!r}"
        )
    return column.map(values).astype(float)


def indicator(
    keys: Sequence[str] | pd.Series | pd.Index, sets: Iterable[set[str]], classes: Iterable[str]
) -> pd.DataFrame:
    """Return 0 and 1 by key and class, classes sorted by name.

    Args:
        keys: of the records.
        sets: the classes of each; others than ``classes`` are ignored.
        classes: of the table.
    """
    number = {name: n for n, name in enumerate(sorted(set(classes)))}
    matrix = np.zeros((len(keys), len(number)))
    hits = [
        (row, number[name]) for row, names in enumerate(sets) for name in names if name in number
    ]
    matrix[tuple(np.array(hits, int).reshape(-1, 2).T)] = 1
    return pd.DataFrame(matrix, pd.Index(keys), list(number))


def tenths(labels: pd.DataFrame, patients: pd.Series) -> np.ndarray:
    """Make folds 0 to 9 for a set that comes without any: stratified over the labels, seed 0.

    Patients are whole and, where these are unknown, recordings (pieces of one are called
    <recording>_<n>).
    """
    recordings = labels.index.str.replace(r"_\d+$", "", regex=True)
    owner = np.where(
        patients.to_numpy() == "", recordings, "patient " + patients.to_numpy().astype(object)
    )
    groups = np.unique(owner.astype(str), return_inverse=True)[1]
    return stratify(labels.to_numpy() == 1, groups, 10, np.random.default_rng(0))


def with_a_class(table: pd.DataFrame, name: str, notes: list[str]) -> pd.DataFrame:
    """Return the records that have a class of the task; ``notes`` gets a line about others."""
    kept = table[(table == 1).any(axis=1)]
    if len(kept) < len(table):
        notes.append(
            f"{name}: {len(table) - len(kept)} records have no label of this task and take no "
            "part in it"
        )
    return kept


def made_folds(labels: pd.DataFrame, patients: pd.Series | None = None) -> pd.DataFrame:
    """Make the splits of a set that comes without folds, and perhaps without patients."""
    patients = pd.Series("", labels.index) if patients is None else patients
    return pd.DataFrame({"fold": tenths(labels, patients), "patient": patients})

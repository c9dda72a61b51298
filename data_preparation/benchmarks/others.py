"""Splits of a public data set that others made: a CSV file with a column of record ids and one of
folds or of parts.
"""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from data_preparation.benchmarks.published import Benchmark
from data_preparation.metadata.files import folds_in, id_column_of
from util.data.columns import holds_folds
from util.data.record_tables import first_few, read_cells
from util.errors import ConfigError

_ENDINGS = {".hea", ".mat", ".dat", ".npy", ".csv", ".h5", ".hdf5", ".xml"}


def read_others(
    path: Path,
    benchmark: Benchmark,
    *,
    id_column: str | None = None,
    fold_column: str | None = None,
) -> pd.Series:
    """Return the folds or parts of a file, texts by the set's key; its name is fold or split.

    Args:
        path: the file.
        benchmark: says how records are called.
        id_column: the column of record ids; None for the usual one, or the only other.
        fold_column: the column of folds or parts; None for the usual one.

    Raises:
        ConfigError: the file, a column or a cell is wrong, or a record has two rows that differ.
    """
    table = read_cells(path)
    column = _fold_column(path, table, fold_column)
    key = id_column_of(path, table.drop(columns=column), id_column)
    ids = table[key].str.strip()
    kind, cells = folds_in(path, table[column].str.strip()[ids != ""])
    keys = ids[ids != ""].map(lambda text: key_of(text, benchmark))
    rows = pd.DataFrame({"key": keys, kind: cells}).drop_duplicates()
    twice = rows["key"][rows["key"].duplicated()]
    if len(twice):
        raise ConfigError(
            f"{path}: {len(twice)} records are in several {kind}s, such as "
            f"{first_few(twice.tolist())}; keep one row a record"
        )
    return rows.set_index("key")[kind]


def _fold_column(path: Path, table: pd.DataFrame, wanted: str | None) -> str:
    able = [name for name in table if holds_folds(name)] if wanted is None else [wanted]
    if len(able) != 1 or able[0] not in table:
        raise ConfigError(
            f"{path}: name the column of folds or parts by --fold_column; there are "
            f"{', '.join(table)}"
        )
    return able[0]


def key_of(text: str, benchmark: Benchmark) -> str:
    """Return the key of a record's id: a name, a number, or the path of a file."""
    name = PurePosixPath(text.replace("\\", "/"))
    text = name.stem if name.suffix.lower() in _ENDINGS else name.name
    if benchmark.numbered:
        text = re.sub(r"\.0*$", "", text)
    match = re.fullmatch(benchmark.name_of, text)
    inner = match[1] if match else text
    return (inner.lstrip("0") or "0") if benchmark.numbered else inner

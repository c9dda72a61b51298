"""Tables of records: what a lab knows of its records beside the signals (labels, splits), a row a record.

They come as CSV files and lie beside the folders of the sampling rates, one for all of these: <root>/<kind>/<name>.csv
with the column record first, and <name>.json with what else is to be known of it and a checksum.
"""
import csv
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import ConfigError, StoreError
from util.files import replacing
from util.store import write_json

FORMAT, VERSION = "ECG record table", 1
PATIENT_COLUMNS = ("patient", "patient_id")


# ============ a file that is given ============
def read_text(path) -> pd.DataFrame:
    """A CSV file with a column record and others as a table of texts; a column patient_id becomes patient.

    Raises:
        ConfigError: unreadable, not UTF-8, empty, no column record, one that is there twice, a name of a
            record missing or twice; a sentence names the file and the cure.
    """
    try:
        # Without a header: pandas would quietly rename the second of two columns of one name.
        table = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        raise ConfigError(f"{path} is empty; write a CSV file with the column record and others") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{path} is not a CSV file: {' '.join(str(error).split())}") from None
    names = [str(name).strip() for name in table.iloc[0]]
    _check_header(path, names)
    names = ["patient" if name == "patient_id" else name for name in names]
    table = table.iloc[1:]
    table.columns = names
    if not len(table):
        raise ConfigError(f"{path} has no row below its header; write one for each record")
    table = table.assign(**{name: table[name].str.strip() for name in ("record", "patient") if name in names})
    if (table["record"] == "").any():
        raise ConfigError(f"{path}: {(table['record'] == '').sum()} rows name no record; fill in the column record")
    twice = table["record"].duplicated()
    if twice.any():
        raise ConfigError(f"{path} names {twice.sum()} records more than once, such as "
                          f"{some(table['record'][twice])}; keep one row a record")
    return table


def _check_header(path, names):
    if "record" not in names:
        hint = " (cells are separated by commas)" if len(names) == 1 else ""
        raise ConfigError(f"{path} lacks the column record; its columns are {', '.join(names)[:200]}{hint}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path} has two columns named {twice[0] or '(nothing)'}; give each a name of its own")
    if set(PATIENT_COLUMNS) <= set(names):
        raise ConfigError(f"{path} has both columns {' and '.join(PATIENT_COLUMNS)}; leave out one")


def some(names, most=3):
    """The first few names, in words."""
    names = [str(name) for name in names[:most + 1]]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def meet(path, named, records, ignore_unknown, without):
    """Bring the rows of a file and the records of a store together.

    Args:
        named: Series of the records that the rows are of; records: names of the store's.
        ignore_unknown: count rows of other records, a ConfigError otherwise.
        without: what is so of the records without a row, in words.

    Returns:
        for each of ``records`` the number of its row (-1: none), whether it has one, and sentences about both kinds of
        rest.
    """
    row_of = pd.Index(named).get_indexer(pd.Index(np.asarray(records, object)))
    has_row, notes = row_of >= 0, []
    strangers = named[~named.isin(np.asarray(records, object))]
    if len(strangers) and not ignore_unknown:
        raise ConfigError(f"{path} names {len(strangers)} records that the store lacks, such as {some(strangers)}; "
                          "mend the names, or leave these rows out with --ignore_unknown")
    if not has_row.any():
        raise ConfigError(f"{path} names none of the store's {len(has_row)} records, which are called such as "
                          f"{some(list(records))}")
    if len(strangers):
        notes.append(f"rows left out, whose records the store lacks: {len(strangers)} of {len(named)}, such as "
                     f"{some(strangers)}")
    if not has_row.all():
        notes.append(f"records of the store without a row, {without}: {(~has_row).sum()} of {len(has_row)}")
    return row_of, has_row, notes


# ============ a table of a store ============
def save_table(root, kind: str, name: str, columns: dict, facts: dict) -> Path:
    """Write the table ``name`` of a kind ("labels", "splits") into a store, in place of one of this name.

    Args:
        root: the folder that holds fs100/ and others; columns: {name: values of all rows}, record first.
        facts: plain values, for the JSON file.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"{name!r} is not a name for a table of {kind}: letters, digits, _, - and . alone")
    folder = Path(root) / kind
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.csv"
    with replacing(path, "w") as file:      # no safe_cell: what is read must be what was given
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    write_json(folder / f"{name}.json", {"format": FORMAT, "version": VERSION, **facts,
                                         "crc32": f"{zlib.crc32(path.read_bytes()):08x}"})
    return path


def table_names(root, kind: str) -> list[str]:
    """Names of a store's tables of a kind."""
    return sorted(path.stem for path in (Path(root) / kind).glob("*.json") if not path.name.startswith("."))


def load_table(root, kind: str, name: str | None, key: str):
    """A store's table as (name, facts, DataFrame of texts indexed by record).

    Args:
        name: None: the only one there is; key: of the config, for messages.

    Raises:
        ConfigError: there is no such table, or there are several; StoreError: damaged or changed.
    """
    there = table_names(root, kind)
    if name is None and len(there) == 1:
        name = there[0]
    if name not in there:
        cure = f"choose one of {', '.join(there)}" if there else f"add one with data_preparation/add_{kind}.py"
        raise ConfigError(f"{key}: {root} has no table of {kind} named {name}; {cure}" if name or not there else
                          f"{key}: {root} has {len(there)} tables of {kind}; {cure}")
    path = Path(root) / kind / f"{name}.csv"
    again = f"add it again with data_preparation/add_{kind}.py"
    try:
        facts, content = json.loads(path.with_suffix(".json").read_text("utf-8")), path.read_bytes()
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} or its .json is unreadable ({error}); {again}") from None
    if not isinstance(facts, dict) or (facts.get("format"), facts.get("version")) != (FORMAT, VERSION):
        raise StoreError(f"{path.with_suffix('.json')} is not of this version of the code; {again}")
    if facts.get("crc32") != f"{zlib.crc32(content):08x}":
        raise StoreError(f"{path} was changed after it was added (its checksum differs); {again}")
    return name, facts, pd.read_csv(path, dtype=str, keep_default_na=False, index_col="record")

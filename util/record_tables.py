"""Tables of records: what a lab knows of its records beside the signals (labels, splits), a row a record.

They come as CSV files and lie beside the folders of the sampling rates, one for all of these: <root>/<kind>/<name>.csv
with the column record first, and <name>.json with what else is to be known of it and a checksum.
"""
import csv
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.errors import ConfigError, StoreError
from util.files import replacing
from util.store import write_json

FORMAT, VERSION = "ECG record table", 1
PATIENT_COLUMNS = ("patient", "patient_id")


# ============ a file that is given ============
@dataclass(frozen=True)
class GivenTable:
    """A CSV file as it was given.

    Attributes:
        path: of the file; rows: int64 (n,), which of the known records each of its rows is of.
        columns: {name: texts (n,) without blanks around}, without those of records and patients.
        patients: texts (n,), "" where unknown, or None without such a column.
        unknown: how many of its rows name records that are not known, which are left out.
    """
    path: Path
    rows: np.ndarray
    columns: dict
    patients: np.ndarray | None
    unknown: int


def read_given(path, records, ignore_unknown=False) -> GivenTable:
    """Read a CSV file with a column record, perhaps one of patient or patient_id, and others.

    Args:
        records: names of the known records, in their order; ignore_unknown: leave out rows of others.

    Raises:
        ConfigError: unreadable, not UTF-8, empty, a column missing or twice, a row of another length, a record
            twice or, unless they are to be ignored, unknown.
    """
    path = Path(path)
    header, lines = _read_csv(path)
    if "record" not in header:
        raise ConfigError(f"{path} has no column record; its columns are: {', '.join(header)}")
    twice = {name for name in header if header.count(name) > 1}
    if twice or "" in header:
        raise ConfigError(f"{path}: " + (f"the column {min(twice)} is there twice" if twice - {""} else
                                         "a column has no name") + "; columns go by name")
    names = [line[header.index("record")] for _, line in lines]
    place = {str(name): row for row, name in enumerate(records)}
    _check_names(path, lines, names, place, ignore_unknown)
    known = [n for n, name in enumerate(names) if name in place]
    if not known:
        raise ConfigError(f"{path} names none of the {len(place)} records; they are named like {next(iter(place), '')}")
    texts = np.array([lines[n][1] for n in known], object)
    columns = {name: texts[:, number] for number, name in enumerate(header) if name != "record"}
    patients = [columns.pop(name) for name in PATIENT_COLUMNS if name in columns]
    if len(patients) > 1:
        raise ConfigError(f"{path} has both columns {' and '.join(PATIENT_COLUMNS)}; leave out one")
    return GivenTable(path, np.array([place[names[n]] for n in known], np.int64), columns,
                      patients[0] if patients else None, len(names) - len(known))


def _read_csv(path):
    """(header, [(number of the line, cells)]), blanks around cells taken off and empty lines left out."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader if any(map(str.strip, line))]
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except csv.Error as error:
        raise ConfigError(f"{path} is not a CSV file: {error}") from None
    if not any(header) or not lines:
        raise ConfigError(f"{path} is empty: it needs a line with the names of its columns and one a record")
    for number, line in lines:
        if len(line) != len(header):
            raise ConfigError(f"{path}, line {number}: {len(line)} cells where there are {len(header)} columns")
    return header, lines


def _check_names(path, lines, names, place, ignore_unknown):
    """A ConfigError where a row has no name, a record has two rows, or one is not known."""
    first = {}
    for (number, _), name in zip(lines, names):
        if not name:
            raise ConfigError(f"{path}, line {number}: no name in the column record")
        if name in first:
            raise ConfigError(f"{path}, line {number}: the record {name} is there twice, first in line {first[name]}")
        first[name] = number
    unknown = [name for name in names if name not in place]
    if unknown and not ignore_unknown:
        raise ConfigError(f"{path} names records that the store lacks: {len(unknown)} of {len(names)}, the first is "
                          f"{unknown[0]}; give --ignore_unknown to leave them out")


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
    import pandas as pd     # half a second, which those who only write tables need not spend

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

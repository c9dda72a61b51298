"""Tables of records: what is known of them beside the signals (labels, splits), one row per record.

They come as CSV files and lie beside the folders of the sampling rates, one for all of these:
<root>/<kind>/<name>.csv with the column record first, and <name>.json with further facts
about it and a checksum.
"""

import json
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from util.console import note
from util.data.columns import holds_patients
from util.data.store import checksum
from util.errors import ConfigError, StoreError
from util.files import is_unknown, write_frame, write_json

FORMAT, VERSION = "ECG record table", 1
_SHORTENED = re.compile(r"[0-9]([.,][0-9]+)?e\+[0-9]+", re.IGNORECASE)  # 1.23457E+11


# ============ a file that is given ============
def read_cells(path: str | os.PathLike) -> pd.DataFrame:
    """Read a CSV file as a table of texts; its first line names the columns.

    Raises:
        ConfigError: it is unreadable, not UTF-8 or empty, or has two columns of one name.
    """
    try:
        # Without a header: pandas would quietly rename the second of two columns of one name.
        table = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except pd.errors.EmptyDataError:
        raise ConfigError(
            f"{path} is empty; write a CSV file whose first line names its columns"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, OverflowError) as error:
        wide = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if wide:
            raise ConfigError(
                f"{path}: line {wide[2]} has {wide[3]} cells, but the first line names {wide[1]} "
                "columns; put quotes around a text with commas, or mend the line"
            ) from None
        raise ConfigError(f"{path} is not a CSV file: {' '.join(str(error).split())}") from None
    table = table.fillna("")  # cells that a short row lacks
    first = str(table.iat[0, 0])
    other = next((sign for sign in (";", "\t") if len(table.columns) == 1 and sign in first), None)
    if other:
        sign = "semicolons" if other == ";" else "tabs"
        raise ConfigError(
            f"{path}: {sign} are between its columns ({first[:80].strip()!r}): save it with commas"
        )
    names = [str(name).strip() for name in table.iloc[0]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{path} has two columns named {twice[0] or '(nothing)'}; give each a name of its own"
        )
    return table.iloc[1:].set_axis(names, axis=1)


def read_text(path: str | os.PathLike, keep: Collection[str] = ()) -> pd.DataFrame:
    """Read a file with a row a record, as ``read_cells``; a column of patients becomes patient.

    Args:
        path: the file.
        keep: columns that are something else, whatever they are called.

    Raises:
        ConfigError: it has no column record, or a record's name is missing or comes twice, or two
            columns differ about the patients; the message names the file and the cure.
    """
    table = read_cells(path)
    if "record" not in table:
        hint = " (cells are separated by commas)" if len(table.columns) == 1 else ""
        raise ConfigError(
            f"{path} lacks the column record; its columns are {', '.join(table)[:200]}{hint}; "
            "rename the one with the records' names to record"
        )
    table = _one_column_of_patients(path, table, keep)
    if not len(table):
        raise ConfigError(f"{path} has no row below its header; write one for each record")
    table = table.assign(
        **{name: table[name].str.strip() for name in ("record", "patient") if name in table}
    )
    if "patient" in table:
        table["patient"] = known_ids(path, table["patient"])
    if (table["record"] == "").any():
        raise ConfigError(
            f"{path}: {(table['record'] == '').sum()} rows name no record; fill in the column "
            "record"
        )
    twice = table["record"].duplicated()
    if twice.any():
        raise ConfigError(
            f"{path} names {twice.sum()} records more than once, such as "
            f"{first_few(table['record'][twice])}; keep one row a record"
        )
    return table


def _one_column_of_patients(
    path: str | os.PathLike, table: pd.DataFrame, keep: Collection[str]
) -> pd.DataFrame:
    """The table with one column patient, whatever it was called, if there was any."""
    found = [name for name in table if holds_patients(name) and name not in keep]
    if not found:
        return table
    first, *others = sorted(found, key=lambda name: name != "patient")
    for name in others:
        pairs = table[[first, name]].drop_duplicates()
        if pairs[first].duplicated().any() or pairs[name].duplicated().any():
            raise ConfigError(
                f"{path} has both columns {first} and {name}, which tell patients apart in two "
                "ways; leave out one"
            )
    if found != ["patient"] and found != ["patient_id"]:
        note(f"{path}: the column {first} says whose record it is" + _and_others(others))
    return table.drop(columns=others).rename(columns={first: "patient"})


def _and_others(names: Sequence[str]) -> str:
    return f"; {', '.join(names)}, which says the same, is left out" if names else ""


def known_ids(path: str | os.PathLike, patients: pd.Series) -> pd.Series:
    """Return ids of patients, "" in place of words for "unknown"; notes count these, and numbers
    that a spreadsheet shortened.
    """
    unknown = patients.map(is_unknown)
    words = sorted(set(patients[unknown]) - {""})
    if words:
        note(
            f"{path}: rows whose patient is unknown, written as {first_few(words)}: "
            f"{(unknown & (patients != '')).sum()} of {len(patients)}"
        )
    short = patients[patients.str.fullmatch(_SHORTENED)]
    if len(short):
        note(
            f"warning: {path}: patients whose numbers were shortened, such as {short.iloc[0]}: "
            f"{len(short)} of {len(patients)}; several may have become one: write the ids as "
            "text, with all digits"
        )
    return patients.mask(unknown, "")


def plain_form(name: str) -> str:
    """Return a name without what differs between programs that write it.

    These are upper and lower case, zeros in front of a number, ".0" behind it, blanks, and how
    Unicode composes a letter: 00012, 12 and 12.0 are one, as are P1 and p1.
    """
    text = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    text = re.sub(r"^([0-9]+)\.0*$", r"\1", text)
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of different names that are one but for the writing, see
    ``plain_form``.
    """
    forms: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        forms.setdefault(plain_form(name), []).append(name)
    return [group for group in forms.values() if len(group) > 1]


def near_matches(named: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of a name and one of ``others`` that it would be, but for the writing.

    See ``plain_form``; names that are among ``others`` have none.  A name may also lack the
    database that a store puts in front of those that two databases use.
    """
    there = set(others)
    lone = [name for name in named if name not in there]
    if not lone:
        return []
    parts = {name: name.split("_") for name in there}
    by_form = {
        plain_form("_".join(words[first:])): name
        for name, words in parts.items()
        for first in range(1, len(words))
    }
    by_form |= {plain_form(name): name for name in there}
    forms = ((name, by_form.get(plain_form(name))) for name in lone)
    return [(name, other) for name, other in forms if other is not None]


def _near(named: Iterable[str], others: Iterable[str]) -> str:
    """What to add to a message about names that match nothing, "" where none is near."""
    pairs = near_matches(named, others)
    if not pairs:
        return ""
    return f" ({len(pairs)} differ in writing alone: {pairs[0][0]} is {pairs[0][1]} there)"


def note_alike_patients(databases: Iterable[str], patients: Iterable[str]) -> None:
    """Say which patients of a database differ in writing alone.

    Args:
        databases: of the records.
        patients: ids of the records, "" where unknown.
    """
    of: dict[str, set[str]] = {}
    for database, patient in set(zip(databases, patients)):
        of.setdefault(database, set()).add(patient)
    same = [group for database in sorted(of) for group in alike(of[database] - {""})]
    if same:
        note(
            f"warning: patients that differ in writing alone, and count as several: {len(same)}, "
            f"such as {' and '.join(same[0][:3])}; write each in one way if they are one"
        )


def first_few(names: Sequence | pd.Series, most: int = 3) -> str:
    """Return the first few names, in words."""
    words = [str(name) for name in names[: most + 1]]
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")


def match_rows(
    path: str | os.PathLike,
    named: pd.Series,
    records: Sequence[str],
    *,
    ignore_unknown: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the row of a file that is about each record of a store.

    Args:
        path: the file, for messages.
        named: the records that its rows are of.
        records: names of the store's.
        ignore_unknown: leave out rows of other records, which are an error otherwise.

    Returns:
        for each of ``records`` the number of its row (-1: none), and whether it has one.

    Raises:
        ConfigError: rows of other records, or no row of a record of the store.
    """
    names = np.asarray(records, object)
    row_of = pd.Index(named).get_indexer(pd.Index(names))
    has_row = row_of >= 0
    strangers = named[~named.isin(names)]
    if len(strangers) and not ignore_unknown:
        ours = "" if has_row.any() else f", whose names are such as {first_few(list(records))}"
        raise ConfigError(
            f"{path} names {len(strangers)} records that the store lacks, such as "
            f"{first_few(strangers)}{_near(strangers, names)}{ours}; mend the names, or leave "
            "these rows out with --ignore_unknown"
        )
    if not has_row.any():
        raise ConfigError(
            f"{path} names none of the store's {len(has_row)} records, which are called such as "
            f"{first_few(list(records))}{_near(named, names)}"
        )
    return row_of, has_row


def note_unmatched(named: pd.Series, records: Sequence[str], *, without: str) -> None:
    """Say how many rows of a file and how many records of a store have no partner.

    Args:
        named: the records that the file's rows are of.
        records: names of the store's.
        without: what happens to records without a row, in words.
    """
    strangers = named[~named.isin(records)]
    if len(strangers):
        note(
            f"rows left out, whose records the store lacks: {len(strangers)} of {len(named)}, "
            f"such as {first_few(strangers)}{_near(strangers, records)}"
        )
    missing = len(set(records) - set(named))
    if missing:
        note(f"records of the store without a row, {without}: {missing} of {len(records)}")


# ============ a table of a store ============
def table_name(
    kind: str,
    path: str | os.PathLike,
    name: str | None = None,
    *,
    cure: str = "choose one with --name",
) -> str:
    """Return what the table of a file is called: ``name``, else as the file.

    Args:
        kind: "labels" or "splits".
        path: the file.
        name: what it is to be called.
        cure: what the message advises where no file could be called so.

    Raises:
        ConfigError: no file could be called so.
    """
    name = Path(path).stem if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ConfigError(
            f"a table of {kind} cannot be called {name!r}: letters, digits, _ . - make a name; "
            f"{cure}"
        )
    return name


def plain_name(path: str | os.PathLike, default: str) -> str:
    """Return the name of a table after its file: its letters, digits, _ . - or else ``default``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(path).stem).strip("_.-") or default


def table_names(root: str | os.PathLike, kind: str) -> list[str]:
    """Return the names of the tables of a kind in a store's root."""
    return sorted(path.stem for path in (Path(root) / kind).glob("*.json"))


def save_table(
    root: str | os.PathLike, kind: str, name: str, table: pd.DataFrame, facts: dict[str, Any]
) -> str:
    """Write ``root/<kind>/<name>.csv`` and ``.json``, and return in words what was written.

    A table of that name is replaced.

    Args:
        root: the folder that holds fs100/ and others.
        kind: "labels" or "splits".
        name: of the table.
        table: column record, then others.
        facts: plain values, for the JSON file.

    Raises:
        StoreError: the files cannot be written.
    """
    path = Path(root) / kind / f"{name}.csv"
    new = f"{kind} {name}" + ", which replaces an earlier table" * (name in table_names(root, kind))
    try:
        # Without its description a table is not there: at no time does one lie beside that of
        # another.
        path.with_suffix(".json").unlink(missing_ok=True)
        write_frame(path, table)
        write_json(
            path.with_suffix(".json"),
            {
                "format": FORMAT,
                "version": VERSION,
                **facts,
                "csv_crc32": checksum(path.read_bytes()),
            },
        )
    except OSError as error:
        raise StoreError(f"cannot write the table of {kind} {path}: {error.strerror}") from error
    return new


def find_table(
    root: str | os.PathLike, kind: str, name: str | None, facts: Collection[str]
) -> tuple[Path, dict[str, Any]]:
    """Return a store's table, whole and unchanged: its CSV file and what its JSON file says.

    Args:
        root: the folder that holds fs100/ and others.
        kind: "labels" or "splits".
        name: of the table; None for the only one there is.
        facts: names of what the JSON file must say.

    Raises:
        ConfigError: there is no such table, or none is named and there are several.
        StoreError: it is damaged or was changed.
    """
    there = table_names(root, kind)
    if name is None and len(there) == 1:
        name = there[0]
    if name is None and len(there) > 1:
        raise ConfigError(
            f"dataset.{kind}: {root} has several tables of {kind}; name one of {', '.join(there)}"
        )
    if name not in there:
        named, has = "" if name is None else f" {name!r}", ", ".join(there) or "none"
        raise ConfigError(
            f"dataset.{kind}: {root} has no table of {kind}{named} (it has {has}); add one with "
            f"data_preparation/add_{kind}.py"
        )
    path = Path(root) / kind / f"{name}.csv"
    about = path.with_suffix(".json")
    again = f"add the table again with data_preparation/add_{kind}.py"
    try:
        said = json.loads(about.read_text("utf-8"))
        is_ours = (said["format"], said["version"]) == (FORMAT, VERSION)
        sound = is_ours and {"csv_crc32", *facts} <= said.keys()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise StoreError(f"{about} is damaged or of another version; {again}")
    if not path.is_file() or checksum(path.read_bytes()) != said["csv_crc32"]:
        raise StoreError(
            f"{path} is missing or was changed after it was added (its checksum differs); {again}"
        )
    return path, said

"""A file of splits: CSV, one row a record, checked before anything is made of it."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from util.console import note
from util.data.record_tables import match_rows, note_unmatched, read_text, save_table
from util.data.splits import PARTS, known_patients, patients_on_several_sides, with_patients
from util.errors import ConfigError
from util.files import is_unknown

# Spreadsheets and pandas write 1.0 where a cell below is empty.
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_ORDER: dict[str, Callable] = {"split": PARTS.index, "fold": int}


_PART_WORDS = {
    "train": ("train", "training", "tr"),
    "valid": ("valid", "val", "validation", "dev", "development", "tuning"),
    "test": ("test", "testing", "te", "evaluation", "holdout"),
}
_PART_OF = {word: part for part, words in _PART_WORDS.items() for word in words}


def part_of(word: str) -> str | None:
    """Return train, valid or test for others' words for them, "" for "", None for what is none."""
    return _PART_OF.get(word.strip().casefold()) if word else ""


@dataclass(frozen=True)
class SplitFile:
    """Splits, checked.

    Attributes:
        path: the file.
        kind: "split" (train, valid, test) or "fold" (whole numbers).
        columns: {record, the kind, perhaps patient: texts (n,)}, as a store keeps them, in its
            order.
        patients: {record: id}, of known ones.
        sizes: {part: number of records}.
    """

    path: Path
    kind: str
    columns: dict
    patients: dict
    sizes: dict


def read_splits(
    path: str | os.PathLike,
    records: Any,
    *,
    ignore_unknown: bool = False,
    allow_patient_overlap: bool = False,
) -> SplitFile:
    """Read a CSV file with the columns record and split or fold, and perhaps patient (or
    patient_id).

    Args:
        path: the file.
        records: columns record, database, patient and, to know pieces, path or recording of the
            store's records, by name; a patient counts where the file does not say.
        ignore_unknown: leave out rows of other records.
        allow_patient_overlap: take splits that put a patient on two sides.

    Notes count what is left out.

    Raises:
        ConfigError: the file is unreadable, a word or number in it is wrong, or a patient is on
            two sides.
    """
    table = read_text(path)
    kinds = [kind for kind in _ORDER if kind in table]
    if len(kinds) != 1:
        raise ConfigError(
            f"{path} "
            + (
                "has both columns split and fold; leave out one"
                if kinds
                else "has no column split (train, valid, test) or fold (whole numbers)"
            )
        )
    kind = kinds[0]
    names = records["record"]
    row_of, has_row = match_rows(path, table["record"], names, ignore_unknown=ignore_unknown)
    note_unmatched(table["record"], names, without="which take no part")
    table = table.iloc[row_of[has_row]]
    parts = np.array(
        [_part(path, kind, *cells) for cells in zip(table[kind].str.strip(), table["record"])],
        object,
    )
    taken = parts != ""
    if not taken.any():
        raise ConfigError(f"{path}: the column {kind} is empty")
    if not taken.all():
        note(f"records whose {kind} is empty or unknown, which take no part: {(~taken).sum()}")
    others = [name for name in table if name not in ("record", "patient", kind)]
    if others:
        note(f"columns without effect: {', '.join(others)}")
    sizes = {
        part: int((parts == part).sum()) for part in sorted(set(parts[taken]), key=_ORDER[kind])
    }
    columns: dict[str, Any] = {"record": table["record"], kind: parts}
    patients: dict[str, str] = {}
    about = pd.DataFrame(
        {
            name: np.asarray(records[name], object)[has_row]
            for name in ("database", "patient", "record", "path", "recording")
            if name in records
        }
    )
    if "patient" in table:
        columns["patient"] = table["patient"]
        patients = {
            name: patient for name, patient in zip(table["record"], table["patient"]) if patient
        }
        about = with_patients(about, table["patient"])
    whose = known_patients(about)
    several = patients_on_several_sides(whose, np.stack([parts == part for part in sizes]))
    if len(several) and not allow_patient_overlap:
        rows = np.flatnonzero((whose == several[0]) & taken)
        # A record of each side: the first of them.
        first = dict(zip(parts[rows][::-1], table["record"].iloc[rows][::-1]))
        sides = ", ".join(
            f"{first[part]} in {'fold ' * (kind == 'fold')}{part}"
            for part in sizes
            if part in first
        )
        raise ConfigError(
            f"{path} puts {len(several)} patients on more than one side, such as {several[0]} "
            f"({sides}): scores would be too good; mend it, or give --allow_patient_overlap for "
            "published splits that do"
        )
    if len(several):
        note(f"patients on more than one side, as allowed: {len(several)}")
    columns = {name: np.asarray(cells, object)[taken] for name, cells in columns.items()}
    return SplitFile(Path(path), kind, columns, patients, sizes)


def _part(path, kind, cell, name):
    """A cell as it is kept: a part, a fold's number (-1 is one), or "" for none."""
    if kind == "split" and cell in PARTS:
        return cell
    if is_unknown(cell) and not _WHOLE.fullmatch(cell):
        return ""
    if kind == "split":
        raise ConfigError(
            f"{path}: the split of record {name} is {cell!r}, not one of {', '.join(PARTS)}"
        )
    if not _WHOLE.fullmatch(cell):
        raise ConfigError(f"{path}: the fold of record {name} is {cell!r}, not a whole number")
    return str(int(cell.partition(".")[0]))


def write_splits(root: Path, table: SplitFile, name: str, command: str) -> None:
    """Put a table into a store and say what it holds.

    Args:
        root: the folder that holds fs100 and others.
        table: what to write.
        name: of the table.
        command: the command line that made it.
    """
    new = save_table(
        root,
        "splits",
        name,
        pd.DataFrame(table.columns),
        {"kind": table.kind, "source": table.path.name, "command": [command]},
    )
    print(
        f"{new}: records by {table.kind}: "
        + ", ".join(f"{part} {size}" for part, size in table.sizes.items())
    )

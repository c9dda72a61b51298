"""Add a table of splits to a store: who trains, selects and tests, as a lab or a publication
says.

    python data_preparation/add_splits.py ./data_folder/data_summary_without_preprocessing
        splits.csv

The CSV file has a column record and either split (train, valid, test) or fold (whole numbers of
any range), perhaps patient.  It serves all sampling rates; in a config, dataset.protocol: given
takes it.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.add_labels import open_any_rate
from util.data.record_tables import meet, read_text, save_table, table_name
from util.data.splits import PARTS, known_patients, patients_on_several_sides, with_patients
from util.errors import ConfigError
from util.processes.program import run_main

_WHOLE = re.compile(
    r"[+-]?[0-9]+(\.0*)?"
)  # spreadsheets and pandas write 1.0 where a cell below is empty
_ORDER = {"split": PARTS.index, "fold": int}


@dataclass(frozen=True)
class SplitFile:
    """Splits, checked.

    Attributes:
        path: the file; kind: "split" (train, valid, test) or "fold" (whole numbers).
        columns: {record, the kind, perhaps patient: texts (n,)}, as a store keeps them, in its
            order.
        patients: {record: id}, of known ones; sizes: {part: number of records}; notes: sentences
        about what takes no part.
    """

    path: Path
    kind: str
    columns: dict
    patients: dict
    sizes: dict
    notes: list


def read_splits(path, records, *, ignore_unknown=False, allow_patient_overlap=False) -> SplitFile:
    """Read a CSV file with the columns record and split or fold, and perhaps patient (or
    patient_id).

    Args:
        records: columns record, database and patient of the store's records.csv; a patient counts
            where the file does not say.
        ignore_unknown: leave out rows of other records; allow_patient_overlap: take splits that
            put a patient on two sides.

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
    row_of, has_row, notes = meet(
        path, table["record"], records["record"], ignore_unknown, "which take no part"
    )
    table = table.iloc[row_of[has_row]]
    parts = np.array(
        [_part(path, kind, *cells) for cells in zip(table[kind].str.strip(), table["record"])],
        object,
    )
    taken = parts != ""
    if not taken.any():
        raise ConfigError(f"{path}: the column {kind} is empty")
    if not taken.all():
        notes.append(f"records whose {kind} is empty, which take no part: {(~taken).sum()}")
    others = [name for name in table if name not in ("record", "patient", kind)]
    if others:
        notes.append(f"columns without effect: {', '.join(others)}")
    sizes = {
        part: int((parts == part).sum()) for part in sorted(set(parts[taken]), key=_ORDER[kind])
    }
    columns, patients = {"record": table["record"], kind: parts}, {}
    about = pd.DataFrame(
        {name: np.asarray(records[name], object)[has_row] for name in ("database", "patient")}
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
        theirs = np.flatnonzero((whose == several[0]) & taken)
        first = dict(
            zip(parts[theirs][::-1], table["record"].iloc[theirs][::-1])
        )  # a record of each side
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
        notes.append(f"patients on more than one side, as allowed: {len(several)}")
    columns = {name: np.asarray(cells, object)[taken] for name, cells in columns.items()}
    return SplitFile(Path(path), kind, columns, patients, sizes, notes)


def _part(path, kind, cell, name):
    """A cell as it is kept: a part, a fold's number, or "" for none."""
    if not cell or kind == "split" and cell in PARTS:
        return cell
    if kind == "split":
        raise ConfigError(
            f"{path}: the split of record {name} is {cell!r}, not one of {', '.join(PARTS)}"
        )
    if not _WHOLE.fullmatch(cell):
        raise ConfigError(f"{path}: the fold of record {name} is {cell!r}, not a whole number")
    return str(int(cell.partition(".")[0]))


def add_splits(root, table: SplitFile, name: str, command: str) -> None:
    """Put a table into the store at ``root`` and say what it holds; ``command``: the command line
    that made it.
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
    for note in table.notes:
        print(note)


def add_overlap_flag(parser) -> None:
    """--allow_patient_overlap."""
    parser.add_argument(
        "--allow_patient_overlap",
        action="store_true",
        help="take published splits that put a patient's records on two sides",
    )


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "store", type=Path, help="the folder that holds fs100, fs250, ..., or one of these"
    )
    parser.add_argument("splits", type=Path, metavar="FILE.csv")
    parser.add_argument("--name", help="of the table (default: the file's)")
    parser.add_argument(
        "--ignore_unknown",
        action="store_true",
        help="leave out rows of records that the store lacks",
    )
    add_overlap_flag(parser)
    args = parser.parse_args(argv)
    store, name = open_any_rate(args.store), table_name("splits", args.splits, args.name)
    table = read_splits(
        args.splits,
        store.records,
        ignore_unknown=args.ignore_unknown,
        allow_patient_overlap=args.allow_patient_overlap,
    )
    flags = [
        f"--{flag}" for flag in ("ignore_unknown", "allow_patient_overlap") if getattr(args, flag)
    ]
    add_splits(
        store.path.parent,
        table,
        name,
        " ".join(
            [
                "python data_preparation/add_splits.py STORE",
                args.splits.name,
                "--name",
                name,
                *flags,
            ]
        ),
    )


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

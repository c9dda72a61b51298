"""A file of splits: who trains, selects and tests, as a lab or a publication says."""
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from util.errors import ConfigError
from util.record_tables import read_given, save_table, table_names
from util.splits import PARTS, known_patients, patients_on_several_sides

_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


@dataclass
class SplitFile:
    """Splits, checked.

    Attributes:
        path: the file; kind: "split" (train, valid, test) or "fold" (whole numbers).
        columns: {record, the kind, perhaps patient: texts (n,)}, as a store keeps them.
        notes: sentences about what took no part, and a summary.
    """
    path: Path
    kind: str
    columns: dict
    notes: list = field(default_factory=list)


def read_splits(path, records, *, ignore_unknown=False, allow_patient_overlap=False) -> SplitFile:
    """Read a CSV file with the columns record and split or fold, and perhaps patient (or patient_id).

    Args:
        records: columns record, database and patient of the store's records.csv; a patient counts where the file does
            not say.
        ignore_unknown: leave out rows of other records; allow_patient_overlap: take splits that put a patient on
            two sides.

    Raises:
        ConfigError: the file is unreadable, a word or number in it is wrong, or a patient is on two sides.
    """
    found = read_given(path, records["record"], ignore_unknown)
    kinds = [kind for kind in ("split", "fold") if kind in found.columns]
    if len(kinds) != 1:
        raise ConfigError(f"{path} " + ("has both columns split and fold; leave out one" if kinds else
                          "has no column split (train, valid, test) or fold (whole numbers)"))
    kind, cells = kinds[0], found.columns[kinds[0]]
    about = {name: np.asarray(records[name], object)[found.rows] for name in ("record", "database", "patient")}
    names = about["record"]
    parts = np.array([_part(path, kind, cell, name) for cell, name in zip(cells, names)], object)
    if found.patients is not None:
        about["patient"] = np.where(found.patients != "", found.patients, about["patient"])
    sides = [parts == side for side in sorted(set(parts) - {""})]
    if not sides:
        raise ConfigError(f"{path}: the column {kind} is empty")
    several = patients_on_several_sides(known_patients(about), np.stack(sides))
    if len(several) and not allow_patient_overlap:
        raise ConfigError(f"{path} puts {len(several)} patients on more than one side, such as {several[0]}: scores "
                          "would be too good; mend it, or give --allow_patient_overlap for published splits that do")
    columns = {"record": names, kind: parts}
    if found.patients is not None:
        columns["patient"] = found.patients
    taken = parts != ""
    table = SplitFile(Path(path), kind, {name: cells[taken] for name, cells in columns.items()})
    table.notes += _notes(found, kind, parts, len(records["record"]), len(several))
    return table


def _part(path, kind, cell, name):
    """A cell as it is kept: a part, a fold's number, or "" for none."""
    if not cell or kind == "split" and cell in PARTS:
        return cell
    if kind == "split":
        raise ConfigError(f"{path}: the split of record {name} is {cell!r}, not one of {', '.join(PARTS)}")
    if not _WHOLE.fullmatch(cell):
        raise ConfigError(f"{path}: the fold of record {name} is {cell!r}, not a whole number")
    return str(int(float(cell)))


def _notes(found, kind, parts, records, several):
    sizes = {side: int((parts == side).sum()) for side in set(parts) - {""}}
    order = sorted(sizes, key=PARTS.index if kind == "split" else int)
    notes = [", ".join(f"{side} {sizes[side]}" for side in order)]
    left_out = {"rows of records that the store lacks, left out": found.unknown,
                "records of the store without a row, which take no part": records - len(parts),
                f"records whose {kind} is empty, which take no part": int((parts == "").sum()),
                "patients on more than one side, as allowed": several}
    notes += [f"{what}: {count}" for what, count in left_out.items() if count]
    others = sorted(found.columns.keys() - {kind})
    return notes + ([f"columns without effect: {', '.join(others)}"] if others else [])


def add_splits(root, table: SplitFile, name: str | None, command: str) -> None:
    """Put a table into the store at ``root`` under ``name``, by default the file's; says what it holds."""
    name = name or table.path.stem
    replaced = name in table_names(root, "splits")
    place = save_table(root, "splits", name, table.columns,
                       {"kind": table.kind, "source": table.path.name, "command": command})
    print(f"{'replaced' if replaced else 'added'} {place}: {table.kind}s {table.notes[0]}")
    for note in table.notes[1:]:
        print(note)

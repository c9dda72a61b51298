"""Adding tables of labels and splits to a store that exists."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_preparation.building.extraction import note_shares
from data_preparation.metadata.split_files import read_splits, write_splits
from util.data.record_tables import note_alike_patients, table_name
from util.data.splits import known_patients, patients_on_several_sides, with_patients
from util.data.store import FOLDS, RecordStore
from util.errors import StoreError
from util.labels.files import load_label_file
from util.labels.tables import write_labels


def open_any_rate(place: str | os.PathLike) -> RecordStore:
    """Open the store in a folder, or that of the first rate in its root.

    All rates hold the same records.

    Raises:
        StoreError: there is none.
    """
    place = Path(place)
    inside = sorted(place.glob("fs*/meta.json"))
    if not (place / "meta.json").exists() and not inside:
        raise StoreError(
            f"no store at {place}: name the folder that holds fs100/, fs250/, ... or one of these"
        )
    return RecordStore(place if (place / "meta.json").exists() else inside[0].parent)


def column_flags(columns: Sequence[str] | None) -> str:
    """Return the flag --columns as one types it, "" for None."""
    return "" if columns is None else " --columns " + shlex.join(columns)


def add_labels(
    place: str | os.PathLike,
    path: Path,
    *,
    name: str | None = None,
    columns: Sequence[str] | None = None,
    ignore_unknown: bool = False,
    by_folds: bool = True,
) -> None:
    """Add a file of labels to a store and say what it holds.

    Args:
        place: the store, or the folder of all its rates.
        path: the CSV file.
        name: of the table; None for that of the file.
        columns: those to take; None for all but ids, row numbers, folds and files.
        ignore_unknown: leave out rows of records that the store lacks.
        by_folds: whether the store's folds may serve the table.
    """
    store, name = open_any_rate(place), table_name("labels", path, name)
    file = load_label_file(
        path, store.records["record"], ignore_unknown=ignore_unknown, wanted=columns
    )
    if file.patients and by_folds:
        records = with_patients(store.records, file.patients)
        note_alike_patients(records["database"], records["patient"])
        patients = known_patients(records)
        several = patients_on_several_sides(
            patients, np.stack([store.records["fold"] == n for n in range(FOLDS)])
        )
        if len(several):
            print(
                f"note: patients with records in several folds of this store: {len(several)}, "
                f"such as {several[0]}; it did not know them, so test scores by its folds will be "
                "too good: make it again by data_preparation/reformat_memmap.py --labels, or go "
                "by a table of splits (dataset.protocol: given)"
            )
        rows = store.records["record"][file.has_row], np.asarray(file.patients)[file.has_row]
        _note_patients(store, dict(zip(*rows)))
    command = f"python data_preparation/add_labels.py STORE {path.name} --name {name}"
    write_labels(
        store.path.parent,
        name,
        file,
        store.records["record"],
        path.name,
        command + column_flags(columns) + " --ignore_unknown" * ignore_unknown,
    )


def add_splits(
    place: str | os.PathLike,
    path: Path,
    *,
    name: str | None = None,
    ignore_unknown: bool = False,
    allow_patient_overlap: bool = False,
) -> None:
    """Add a file of splits to a store and say what it holds.

    Args:
        place: the store, or the folder of all its rates.
        path: the CSV file.
        name: of the table; None for that of the file.
        ignore_unknown: leave out rows of records that the store lacks.
        allow_patient_overlap: take splits that put a patient on two sides.
    """
    store, name = open_any_rate(place), table_name("splits", path, name)
    table = read_splits(
        path,
        store.records,
        ignore_unknown=ignore_unknown,
        allow_patient_overlap=allow_patient_overlap,
    )
    if "patient" in table.columns:
        _note_patients(store, dict(zip(table.columns["record"], table.columns["patient"])))
    command = (
        f"python data_preparation/add_splits.py STORE {path.name} --name {name}"
        + " --ignore_unknown" * ignore_unknown
        + " --allow_patient_overlap" * allow_patient_overlap
    )
    write_splits(store.path.parent, table, name, command)


def _note_patients(store, patient_of):
    """Say what is striking about the patients of a file: {record: patient}, "" unknown."""
    of_file = store.records[store.records["record"].isin(patient_of)]
    patients = of_file["record"].map(patient_of).tolist()
    if any(patients):
        note_shares({"database": of_file["database"].tolist(), "patient": patients})

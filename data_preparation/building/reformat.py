"""Extracted shards -> one memory-mapped store per sampling rate."""

import contextlib
import functools
import os
import shutil
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data_preparation.building.extraction import (
    add_folds,
    add_patients,
    load_extraction,
    note_patients,
    note_shares,
    read_columns,
    read_drop,
    read_patients,
    stored_rows,
    with_own_patients,
)
from data_preparation.building.joining import copies_of, join, tell_apart
from data_preparation.building.tables import column_flags
from data_preparation.checking.same_signals import note_same_signals
from data_preparation.importing import shards as engine
from data_preparation.metadata.about import named_apart, read_about, tables_of
from data_preparation.metadata.split_files import read_splits, write_splits
from util.challenge import CODE_TO_CLASS
from util.console import progress_bar
from util.data.record_tables import first_few, plain_name, table_name
from util.data.store import FOLDS, publish, write_store
from util.data.strata import label_strata
from util.errors import ConfigError
from util.files import FolderLock, write_frame
from util.labels.files import load_label_file
from util.labels.tables import write_labels


class Built(NamedTuple):
    """What was built.

    Attributes:
        columns: of the records, see ``read_columns``, and fold.
        folders: of the stores.
    """

    columns: dict[str, list]
    folders: list[Path]

    def summary(self) -> str:
        """Say how many records there are, and in which folds."""
        diagnoses = self.columns["dx"]
        sizes = np.bincount(self.columns["fold"], minlength=FOLDS)
        scored = sum(not CODE_TO_CLASS.keys().isdisjoint(dx.split()) for dx in diagnoses)
        coded = f", {scored} with a diagnosis that the Challenge scores" if any(diagnoses) else ""
        return (
            f"{len(diagnoses)} records{coded}; records by fold: {' '.join(map(str, sizes))}\n"
            f"stores: {', '.join(map(str, self.folders))}"
        )


def reformat(
    input_dir: str | os.PathLike | Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    patients: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    label_columns: Sequence[str] | None = None,
    splits: str | os.PathLike | None = None,
    drop: str | os.PathLike | None = None,
    ignore_unknown: bool = False,
    allow_patient_overlap: bool = False,
) -> Built:
    """Build the stores of all extracted rates, and tables of labels and splits.

    Args:
        input_dir: what an import wrote, or several that are joined in this order.
        output_dir: where the stores go.
        patients: CSV file with columns record and patient_id.
        labels: CSV file for a table of labels, over which the folds are spread.
        label_columns: those of ``labels`` to take; None for all but ids, row numbers, folds, files.
        splits: CSV file for a table of splits.
        drop: CSV file of records to leave out.
        ignore_unknown: leave out rows of ``labels`` and ``splits`` for other records.
        allow_patient_overlap: take splits that put a patient on two sides.

    Raises:
        ECGError: there is no finished import, imports do not fit each other, a file is wrong, or
            the stores cannot be written.
    """
    several = isinstance(input_dir, Sequence) and not isinstance(input_dir, str)
    folders = [Path(folder) for folder in (input_dir if several else [input_dir])]
    settings, shards = join(folders, [load_extraction(folder) for folder in folders])
    everything, kept, copies = _choose_records(shards, drop)
    columns = everything
    if not kept.all():  # else no second copy in memory
        columns = {name: list(compress(cells, kept)) for name, cells in everything.items()}
    if patients:
        patient_of = read_patients(patients)
        note_patients(everything, patients, patient_of)
        add_patients(columns, patient_of, f"--patients {patients}")
    of_sets = named_apart(
        [
            tables_of(about, part, allow_patient_overlap=allow_patient_overlap)
            for about, part in _by_import(folders, columns)
        ]
    )
    # before the work of building stores
    label_table = split_table = None
    if labels:
        taken = [one.name for one in of_sets if one.labels]
        label_table = _read_labels(labels, columns, label_columns, ignore_unknown, taken)
    if splits:
        taken = [one.name for one in of_sets if one.splits]
        split_table = _read_splits(splits, columns, ignore_unknown, allow_patient_overlap, taken)
    columns = with_own_patients(columns)
    note_shares(columns)
    add_folds(columns, _strata(label_table, of_sets, folders))
    if settings["unread"]:
        print(
            "records not read in the extraction, which are not in the store: "
            f"{settings['unread']}; its command tries again"
        )
    files = {"patients": patients, "labels": labels, "splits": splits, "drop": drop}
    command = (
        "python data_preparation/reformat_memmap.py"
        + (len(folders) > 1) * f" --input_dir {' '.join(folder.name for folder in folders)}"
        + "".join(f" --{name} {Path(file).name}" for name, file in files.items() if file)
        + column_flags(label_columns)
        + " --ignore_unknown" * ignore_unknown
        + " --allow_patient_overlap" * allow_patient_overlap
    )
    output_dir, rates = Path(output_dir), settings["target_fs"]
    with FolderLock(output_dir, engine.PATIENCE):
        with _new_stores(output_dir, rates) as new:
            rows = functools.partial(stored_rows, shards, kept, columns)
            _write_stores(new, rows, len(columns["record"]), [*settings["commands"], command])
            _count_replaced(output_dir, set(everything["record"]))
            for fs, folder in new.items():
                publish(folder, output_dir / f"fs{fs}")
        for of_set in of_sets:
            of_set.write(output_dir, command)
        _write_copies(output_dir / "copies.csv", copies)
        if label_table:
            names, origin = columns["record"], Path(label_table.path).name
            write_labels(output_dir, label_table.name, label_table.file, names, origin, command)
        if split_table:
            write_splits(output_dir, split_table.file, split_table.name, command)
    return Built(columns, [output_dir / f"fs{fs}" for fs in rates])


# ============ tables of --labels and --splits ============
class Named(NamedTuple):
    """A table that was given as a file.

    Attributes:
        path: of the file.
        name: of the table.
        file: what is in it.
    """

    path: str | os.PathLike
    name: str
    file: Any


def _read_labels(path, columns, wanted, ignore_unknown, taken) -> Named:
    """The table of --labels; its patients join those of the records."""
    name, names = _name_by_file("labels", path), columns["record"]
    file = load_label_file(path, names, ignore_unknown=ignore_unknown, wanted=wanted)
    _refuse_name("labels", path, name, taken)
    add_patients(columns, dict(zip(names, file.patients or ())), path)
    return Named(path, name, file)


def _read_splits(path, columns, ignore_unknown, allow_patient_overlap, taken) -> Named:
    """The table of --splits; its patients join those of the records."""
    name = _name_by_file("splits", path)
    file = read_splits(
        path,
        with_own_patients(columns),
        ignore_unknown=ignore_unknown,
        allow_patient_overlap=allow_patient_overlap,
    )
    _refuse_name("splits", path, name, taken)
    add_patients(columns, file.patients, path)
    return Named(path, name, file)


def _strata(label_table, of_sets, folders):
    """What the folds are spread over: the labels of --labels, else those of the metadata of the
    one import; None: the Challenge's diagnoses.
    """
    if label_table:
        return label_strata(label_table.file.values, label_table.file.kind)
    if len(folders) == 1 and of_sets and of_sets[0].labels:
        return label_strata(of_sets[0].labels.values, of_sets[0].labels.kind)
    return None


# ============ stores ============
@contextlib.contextmanager
def _new_stores(output_dir, rates):
    """Folders of stores to be, by rate; those that are not published within are removed."""
    new = {fs: output_dir / f".fs{fs}.tmp" for fs in rates}
    try:
        for folder in new.values():
            shutil.rmtree(folder, ignore_errors=True)
        yield new
    finally:
        for folder in new.values():
            shutil.rmtree(folder, ignore_errors=True)


def _write_stores(new, rows, count, commands):
    """Write a store at each rate; what recordings are the same is looked for in the first."""
    with progress_bar(total=count * len(new), unit="record", desc="building stores") as progress:
        for fs, folder in new.items():
            store = write_store(folder, fs, rows(fs, progress), commands)
            if fs == min(new):
                note_same_signals(store, folder.parent)
            del store  # its table takes memory


# ============ records ============
def _by_import(folders, columns):
    """Yield the metadata of each import that has some, and the columns of its records, in which
    recording is the name that the metadata know.
    """
    names = [whole or own for whole, own in zip(columns["recording"], columns["own_name"])]
    # A dict of its own; patients of the metadata are among those of the records
    known = with_own_patients(columns) | {"recording": names}
    for folder in folders:
        settings, _ = load_extraction(folder)
        about = read_about(folder, settings.get("about"))
        if about:
            is_of_it = [place == str(folder) for place in columns["folder"]]
            yield about, {name: list(compress(cells, is_of_it)) for name, cells in known.items()}


def _choose_records(shards, drop):
    """Columns of all records, with names that no two share, which of them are kept, bool, and
    the table of those that are left out as copies.
    """
    columns = read_columns(shards)
    columns["own_name"] = list(columns["record"])  # within its import
    names, kept = columns["record"], np.ones(len(columns["record"]), bool)
    copies = copies_of(columns)
    kept[copies["place"]] = False
    tell_apart(columns, kept)
    if len(copies):
        one = copies.iloc[0]
        print(
            f"copies of other records by their names, which are left out: {len(copies)}, such as "
            f"{one['record']} of {one['database']}, which is {one['copy_of']}; copies.csv beside "
            "the stores lists them"
        )
    if drop:
        dropped = read_drop(drop, names)
        print(f"left out, as --drop {drop} says: {len(dropped)} records")
        kept &= [name not in dropped for name in names]
    return columns, kept, copies


def _write_copies(path, copies):
    """Write the table of copies that were left out; none where there are none."""
    if len(copies):
        write_frame(path, copies.drop(columns="place"))
    else:
        path.unlink(missing_ok=True)


def _name_by_file(kind, path):
    """What the table of a file is called; a ConfigError says how to name it."""
    return table_name(
        kind, path, cure=f"rename the file, for example to {plain_name(path, kind)}.csv"
    )


def _refuse_name(kind, path, name, taken):
    """A ConfigError for the table of a file that would replace one of --metadata."""
    if name in taken:
        raise ConfigError(
            f"--{kind} {path}: the {kind} of an import's --metadata are called {name}, too; rename "
            "the file"
        )


def _count_replaced(root, names):
    """Say how many records of the store at ``root``, which is about to be replaced, are not among
    ``names``.
    """
    old = next(iter(sorted(root.glob("fs*/records.csv"))), None)
    if old:
        with contextlib.suppress(OSError, ValueError):  # it may be damaged
            before = pd.read_csv(old, usecols=["record"], dtype=str, keep_default_na=False)[
                "record"
            ]
            lost = before[~before.isin(names)].tolist()
            if lost:
                print(
                    "records of the store that is replaced, which the new one lacks: "
                    f"{len(lost)} of {len(before)}, such as {first_few(lost)}"
                )

"""What an import left behind, and what is known of its records, for building stores of them."""

import json
import os
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_preparation.building.folds import assign_folds
from data_preparation.importing.plan import SHARD_VERSION
from data_preparation.importing.sources import Lazy
from data_preparation.metadata.about import read_about
from util.data.record_tables import (
    first_few,
    near_matches,
    note_alike_patients,
    read_cells,
    read_text,
)
from util.data.store import FOLDS
from util.errors import ConfigError, StoreError
from util.files import safe_cell
from util.leads import LEADS

MANY_RECORDS = 5  # fewer of one patient are no large share, however small the store
Shards = Sequence[tuple[Any, list[dict[str, Any]]]]


# ============ what an import left ============
def load_extraction(input_dir: Path) -> tuple[dict[str, Any], Shards]:
    """Return the settings of a finished import, and (name, rows) of its shards, read on demand.

    Raises:
        StoreError: there is none, or it is damaged, of another version or empty.
    """
    again = (
        "run data_preparation/data_extraction_without_preprocessing.py, or import_arrays.py "
        "there, (again); it resumes where it stopped"
    )
    try:
        settings = json.loads((input_dir / "extraction.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise StoreError(f"no finished extraction in {input_dir}: {again}") from None
    if not isinstance(settings, dict) or settings.get("version") != SHARD_VERSION:
        raise StoreError(f"{input_dir} was extracted by another version of this code: {again}")
    about = read_about(input_dir, settings.get("about"))
    # It is read for the folds and for every rate, and must not change in between.
    checksums: dict[str, int] = {}

    def shard(place: int) -> tuple[str, list[dict]]:
        name = settings["shards"][place]
        try:
            text = (input_dir / "shards" / f"{name}.json").read_bytes()
            table = json.loads(text)
            sizes = {
                fs: (input_dir / "shards" / f"{name}-fs{fs}.dat").stat().st_size
                for fs in table["bytes"]
            }
        except (OSError, ValueError):
            sizes = None
        if (
            sizes is None
            or sizes != table["bytes"]
            or checksums.setdefault(name, zlib.crc32(text)) != zlib.crc32(text)
        ):
            raise StoreError(
                f"shard {name} in {input_dir} is missing or damaged, or was changed just now: "
                f"{again}"
            )
        return name, [about.row_of(row) if about else row for row in table["records"]]

    shards = Lazy(len(settings["shards"]), shard)
    if not any(rows for _, rows in shards):
        raise StoreError(f"{input_dir} holds no usable record: see its skipped.csv for the reasons")
    return settings, shards


def read_columns(shards: Shards) -> dict[str, list]:
    """Return what of the records is needed at once, lists by the name of the column.

    These are record, recording ("" unless it is a piece of one), database, dx, own_patient (the
    id in its file), patient (none yet) and folder (of its import).  Equal texts are one object: a
    record takes some 100 bytes.
    """
    names = ("record", "recording", "database", "dx", "own_patient", "patient", "folder")
    columns: dict[str, list] = {name: [] for name in names}
    for path, rows in shards:
        for row in rows:
            cells = {"recording": "", "own_patient": row.get("patient", "")} | row
            cells |= {"dx": " ".join(row["dx"]), "patient": "", "folder": str(path.parent.parent)}
            columns["record"].append(row["record"])
            for name in names[1:]:
                columns[name].append(sys.intern(cells[name]))
    return columns


def stored_rows(
    shards: Shards, kept: np.ndarray, columns: dict[str, list], fs: int, progress: tqdm
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield the row and the int16 counts (n, 12) of every record at one rate.

    Args:
        shards: their paths without ending, and their rows.
        kept: bool, of every row whether it is in the store.
        columns: of those that are, with fold.
        fs: the rate in Hz.
        progress: is told of each.
    """
    keeps = iter(kept.tolist())
    known = zip(columns["record"], columns["patient"], columns["fold"])
    for path, rows in shards:
        with open(f"{path}-fs{fs}.dat", "rb") as file:
            for row in rows:
                counts = np.fromfile(file, "<i2", row["length"][str(fs)] * len(LEADS)).reshape(
                    -1, len(LEADS)
                )
                if not next(keeps):
                    continue
                progress.update()
                record, patient, fold = next(known)
                now = {"record": record, "patient": patient, "fold": fold}
                yield row | now | {"scale_uv": row["scale_uv"][str(fs)]}, counts


# ============ files that a user adds ============
def read_patients(path: str | os.PathLike) -> dict[str, str]:
    """Return {record: patient id} of a CSV file with columns record and patient_id.

    Ids that are empty or mean "unknown" are left out.

    Raises:
        ConfigError: the file is wrong.
    """
    table = read_text(path)
    if "patient" not in table:
        raise ConfigError(f"--patients {path} needs the columns record and patient_id")
    return {
        record: patient for record, patient in zip(table["record"], table["patient"]) if patient
    }


def note_patients(columns: dict[str, list], path: object, patients: dict[str, str]) -> None:
    """Say how far a file of patients and the records fit.

    Args:
        columns: of the records, before ``add_patients``; those that are dropped included.
        path: the file.
        patients: what it says, see ``read_patients``.

    Raises:
        ConfigError: it gives no record a patient.
    """
    names = {*columns["record"], *columns["recording"]} - {""}
    strangers = [record for record in patients if record not in names]
    pairs = near_matches(strangers, names)
    near = (
        f"; {len(pairs)} of them differ in writing alone, such as {pairs[0][0]}, which is "
        f"{pairs[0][1]} there: names are compared letter by letter"
        if pairs
        else ""
    )
    if not patients:
        raise ConfigError(
            f"--patients {path} gives no patient: every cell of its column is empty or means "
            "unknown"
        )
    if len(strangers) == len(patients):
        raise ConfigError(
            f"--patients {path} names none of the {len(columns['record'])} records: its rows are "
            f"of {first_few(strangers)}, the records are {first_few(columns['record'])}{near}"
        )
    if strangers:
        print(
            f"{'warning: ' * bool(pairs)}rows of --patients {path} that name no record: "
            f"{len(strangers)} of {len(patients)}, such as {first_few(strangers)}{near}"
        )


def note_shares(columns: dict[str, list]) -> None:
    """Say of records that have their patients how many have none, which patients differ in
    writing alone, and whether one has a large share of all records.
    """
    sizes = Counter(
        (database, patient)
        for database, patient in zip(columns["database"], columns["patient"])
        if patient
    )
    total, known = len(columns["patient"]), sum(sizes.values())
    if known < total:
        print(
            f"records without a patient: {total - known} of {total}; each counts as a patient of "
            "its own"
        )
    note_alike_patients(columns["database"], columns["patient"])
    shared = sorted(name for name, n in Counter(name for _, name in sizes).items() if n > 1)
    if shared:
        print(
            f"patients of several databases with one name, which count as several: {len(shared)}, "
            f"such as {first_few(list(map(safe_cell, shared)))}; import databases that share "
            "their patients under one --database"
        )
    for (database, patient), size in sizes.most_common(3):
        if size >= MANY_RECORDS and size > total / FOLDS:
            print(
                f"warning: patient {safe_cell(patient)} of {database} has {size} of {total} "
                f"records ({size / total:.0%}), which all share one fold; leave the cell empty if "
                "the word means that the patient is unknown"
            )


def read_drop(path: str | os.PathLike, names: Collection[str]) -> set[str]:
    """Return the records that a CSV file lists in its column drop, or else record.

    Raises:
        ConfigError: the file is wrong, or they are not some of ``names``, but not all.
    """
    table = read_cells(path)
    column = next((name for name in ("drop", "record") if name in table), None)
    if not column:
        raise ConfigError(
            f"--drop {path} needs a column record, or drop as check_store.py --duplicates writes it"
        )
    listed = set(table[column].str.strip()) - {""}
    unknown = sorted(listed.difference(names))
    if unknown:
        raise ConfigError(
            f"--drop {path} names {len(unknown)} records that the extraction has not: "
            f"{first_few(unknown)}"
        )
    if len(listed) == len(names):
        raise ConfigError(f"--drop {path} names all {len(names)} records: none is left")
    return listed


def add_patients(columns: dict[str, list], patients: dict[str, str], source: object) -> None:
    """Give every record the patient that a file says.

    Args:
        columns: of the records; the column patient changes.
        patients: {record or recording: id}.
        source: the file, for messages.

    Raises:
        ConfigError: another file said otherwise, or two databases have a recording of one name.
    """
    records, home = set(columns["record"]), dict[str, str]()
    for row, (record, recording, database, known) in enumerate(
        zip(columns["record"], columns["recording"], columns["database"], columns["patient"])
    ):
        patient = patients.get(record)
        if not patient and recording not in records:  # else the file's row is that record's
            patient = patients.get(recording, "")
            if patient and home.setdefault(recording, database) != database:
                raise ConfigError(
                    f"{source} names {recording}, of which {home[recording]} and {database} have "
                    f"pieces, such as {record}; name the pieces, or give each import its patients "
                    "by --metadata"
                )
        patient = patient or ""
        if known and patient and known != patient:
            raise ConfigError(
                f"{source} says that {record} is of patient {patient}, another file that it is "
                f"of {known}; mend one of them"
            )
        columns["patient"][row] = known or patient


def with_own_patients(columns: dict[str, list]) -> dict[str, list]:
    """Return the columns with the patient that a record's own file names where no table names one.

    A table comes first, and so does its name for that patient.
    """
    if not any(columns["own_patient"]):
        return columns
    own = list(zip(columns["database"], columns["own_patient"]))
    called = {key: patient for key, patient in zip(own, columns["patient"]) if key[1] and patient}
    patients = [patient or called.get(key, key[1]) for key, patient in zip(own, columns["patient"])]
    return columns | {"patient": patients}


def add_folds(columns: dict[str, list], strata: np.ndarray | None = None) -> None:
    """Give every record, which has its patient by now, its fold; see ``assign_folds``."""
    patients = [
        patient or recording and f"pieces/{recording}"  # those of a recording stay together
        for patient, recording in zip(columns["patient"], columns["recording"])
    ]
    columns["fold"] = assign_folds(
        columns["database"], columns["dx"], patients, strata=strata
    ).tolist()

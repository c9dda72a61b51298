"""Extracted shards -> one memory-mapped store per sampling rate.  Second of the two steps to a
store.

    python data_preparation/reformat_memmap.py
    python data_preparation/reformat_memmap.py --patients patients.csv --labels labels.csv
    python data_preparation/reformat_memmap.py --splits splits.csv
    python data_preparation/reformat_memmap.py --drop duplicates.csv

Makes <output_dir>/fs100, <output_dir>/fs250, ... with signals.dat, records.csv and meta.json.
All rates hold the same records in the same order with the same folds: ten, stratified within each
database over --labels, else the Challenge's classes, and then over all other codes, with all
records of a patient in one fold where a file tells who they are.  The same input gives the same
bytes.
"""

import argparse
import contextlib
import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.add_splits import add_overlap_flag, add_splits, read_splits
from data_preparation.building.folds import assign_folds
from data_preparation.importing import shards as engine
from util.challenge import CODE_TO_CLASS
from util.data.label_file import load_label_file
from util.data.labels import write_labels
from util.data.record_tables import read_cells, read_text, some, table_name
from util.data.store import FOLDS, publish, write_store
from util.data.strata import label_strata
from util.errors import ConfigError, ECGError, StoreError
from util.files import FolderLock
from util.leads import LEADS

OUTPUT_DIR = "./data_folder/data_summary_without_preprocessing"


def load_extraction(input_dir):
    """The finished extraction in a folder: (its settings, (name, rows) of its shards, read when
    they are asked for).
    """
    again = (
        "run data_preparation/data_extraction_without_preprocessing.py, or import_arrays.py "
        "there, "
        "(again); it resumes where it stopped"
    )
    try:
        settings = json.loads((input_dir / "extraction.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise StoreError(f"no finished extraction in {input_dir}: {again}") from None
    if not isinstance(settings, dict) or settings.get("version") != engine.SHARD_VERSION:
        raise StoreError(f"{input_dir} was extracted by another version of this code: {again}")
    checksums = {}  # it is read for the folds and for every rate, and must not change in between

    def shard(place):
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
        return name, table["records"]

    shards = engine.Lazy(len(settings["shards"]), shard)
    if not any(rows for _, rows in shards):
        raise StoreError(f"{input_dir} holds no usable record: see its skipped.csv for the reasons")
    return settings, shards


def read_patients(path):
    """{record: patient id} from a CSV file with columns record and patient_id; empty ids are left
    out.
    """
    table = read_text(path)
    if "patient" not in table:
        raise ConfigError(f"--patients {path} needs the columns record and patient_id")
    return {
        record: patient for record, patient in zip(table["record"], table["patient"]) if patient
    }


def read_columns(shards, dropped=()):
    """What of the records is needed at once, lists by the name of the column: record, recording
    ("" unless it is a piece of one), database, dx and patient.  Equal texts are one object: a
    record takes some 100 bytes.
    """
    columns = {name: [] for name in ("record", "recording", "database", "dx", "patient")}
    for _, rows in shards:
        for row in rows:
            if row["record"] not in dropped:
                cells = {"recording": "", "patient": ""} | row | {"dx": " ".join(row["dx"])}
                columns["record"].append(row["record"])
                for name in ("recording", "database", "dx", "patient"):
                    columns[name].append(sys.intern(cells[name]))
    return columns


def read_drop(path, names):
    """The records that a CSV file lists, a set, in its column drop (check_store.py --duplicates)
    or else record; a ConfigError unless they are some of ``names``.
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
            f"{some(unknown)}"
        )
    if len(listed) == len(names):
        raise ConfigError(f"--drop {path} names all {len(names)} records: none is left")
    return listed


def add_patients(columns, patients, source):
    """Give every record the patient that ``patients``, {record or recording: id} out of the file
    ``source``, says; a ConfigError where that is not what another file said.
    """
    for row, (record, recording, known) in enumerate(
        zip(columns["record"], columns["recording"], columns["patient"])
    ):
        patient = patients.get(record) or patients.get(recording, "")
        if known and patient and known != patient:
            raise ConfigError(
                f"{source} says that {record} is of patient {patient}, another file that it is "
                "of "
                f"{known}; mend one of them"
            )
        columns["patient"][row] = known or patient


def add_folds(columns, strata=None):
    """Give every record, which has its patient, its fold; ``strata``: ``assign_folds``."""
    patients = [
        patient or recording and f"pieces/{recording}"  # those of a recording stay together
        for patient, recording in zip(columns["patient"], columns["recording"])
    ]
    columns["fold"] = assign_folds(
        columns["database"], columns["dx"], patients, strata=strata
    ).tolist()


def stored_rows(input_dir, shards, dropped, columns, fs, progress):
    """(row, int16 counts) of every record at one rate, read one at a time."""
    known = zip(columns["patient"], columns["fold"])
    for name, rows in shards:
        with open(input_dir / "shards" / f"{name}-fs{fs}.dat", "rb") as file:
            for row in rows:
                counts = np.fromfile(file, "<i2", row["length"][str(fs)] * len(LEADS)).reshape(
                    -1, len(LEADS)
                )
                if row["record"] in dropped:
                    continue
                progress.update()
                patient, fold = next(known)
                yield (
                    row | {"scale_uv": row["scale_uv"][str(fs)], "patient": patient, "fold": fold},
                    counts,
                )


def reformat(
    input_dir,
    output_dir,
    patients=None,
    labels=None,
    splits=None,
    drop=None,
    ignore_unknown=False,
    allow_patient_overlap=False,
):
    """Build the stores of all extracted rates, and tables of labels and splits; arguments as the
    flags.  Returns the columns of their records, ``read_columns`` and fold, and their folders.
    """
    input_dir, output_dir = Path(input_dir), Path(output_dir)
    settings, shards = load_extraction(input_dir)
    columns, dropped = read_columns(shards), frozenset()
    if drop:
        dropped = read_drop(drop, columns["record"])
        print(f"left out, as --drop {drop} says: {len(dropped)} records")
        columns = read_columns(shards, dropped)
    strata, names = None, columns["record"]
    if patients:
        patient_of = read_patients(patients)
        add_patients(columns, patient_of, f"--patients {patients}")
        if patient_of and not any(columns["patient"]):
            raise ConfigError(f"--patients {patients} names none of the {len(names)} records")
    if labels:  # before the work of building stores
        table = table_name("labels", labels)
        label_file = load_label_file(labels, names, ignore_unknown)
        strata = label_strata(label_file.values, label_file.kind)
        add_patients(columns, dict(zip(names, label_file.patients or ())), labels)
    if splits:
        split_file = read_splits(
            splits,
            columns,
            ignore_unknown=ignore_unknown,
            allow_patient_overlap=allow_patient_overlap,
        )
        add_patients(columns, split_file.patients, splits)
    add_folds(columns, strata)
    if settings.get("unread"):
        print(
            "records not read in the extraction, which are not in the store: "
            f"{settings['unread']}; its command tries again"
        )
    rates = settings["target_fs"]
    files = {"patients": patients, "labels": labels, "splits": splits, "drop": drop}
    command = (
        "python data_preparation/reformat_memmap.py"
        + "".join(f" --{name} {Path(file).name}" for name, file in files.items() if file)
        + " --ignore_unknown" * ignore_unknown
        + " --allow_patient_overlap" * allow_patient_overlap
    )
    commands = [settings["command"], command]
    new = {fs: output_dir / f".fs{fs}.tmp" for fs in rates}
    with FolderLock(output_dir, engine.PATIENCE):
        try:
            with tqdm(
                total=len(names) * len(rates), unit="record", desc="building stores"
            ) as progress:
                for fs, folder in new.items():
                    shutil.rmtree(folder, ignore_errors=True)
                    rows = stored_rows(input_dir, shards, dropped, columns, fs, progress)
                    write_store(folder, fs, rows, commands)
            _count_replaced(output_dir, {*names, *dropped})
            for fs, folder in new.items():
                publish(folder, output_dir / f"fs{fs}")
            if labels:
                write_labels(output_dir, table, label_file, names, Path(labels).name, command)
            if splits:
                add_splits(output_dir, split_file, table_name("splits", splits), command)
        finally:
            for folder in new.values():
                shutil.rmtree(folder, ignore_errors=True)
    return columns, [output_dir / f"fs{fs}" for fs in rates]


def _count_replaced(root, names):
    """Say how many records of the store at ``root``, which is about to be replaced, are not among
    ``names``.
    """
    old = next(iter(sorted(root.glob("fs*/records.csv"))), None)
    if old:
        with contextlib.suppress(OSError, ValueError):  # a damaged one
            before = pd.read_csv(old, usecols=["record"], dtype=str, keep_default_na=False)[
                "record"
            ]
            lost = before[~before.isin(names)].tolist()
            if lost:
                print(
                    "records of the store that is replaced, which the new one lacks: "
                    f"{len(lost)} "
                    f"of {len(before)}, such as {some(lost)}"
                )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input_dir",
        default=engine.OUTPUT_DIR,
        help="what the extraction wrote (default: %(default)s)",
    )
    parser.add_argument("--output_dir", default=OUTPUT_DIR, help="default: %(default)s")
    parser.add_argument(
        "--patients",
        metavar="FILE.csv",
        help="columns record, patient_id: a patient's records share "
        "a fold.  Give it wherever it is known, or test scores will be too good (PTB-XL: 18,885 "
        "patients, 21,837 records)",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE.csv",
        help="column record, then columns of labels: a table for "
        "dataset.labels, called as the file is (data_preparation/add_labels.py adds further "
        "ones); "
        "folds are spread over these labels",
    )
    parser.add_argument(
        "--splits",
        metavar="FILE.csv",
        help="columns record and split (train, valid, test) or fold "
        "(whole numbers), perhaps patient: a table of splits, for dataset.protocol: given",
    )
    parser.add_argument(
        "--ignore_unknown",
        action="store_true",
        help="leave out rows of --labels and --splits whose "
        "records were not extracted, or left out by --drop, which are an error otherwise",
    )
    parser.add_argument(
        "--drop",
        metavar="FILE.csv",
        help="leave out the records in its column record, or in the "
        "column drop of the file that check_store.py --duplicates writes",
    )
    add_overlap_flag(parser)
    args = parser.parse_args(argv)
    try:
        columns, folders = reformat(**vars(args))
    except (ECGError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sizes = np.bincount(columns["fold"], minlength=FOLDS)
    scored = sum(not CODE_TO_CLASS.keys().isdisjoint(dx.split()) for dx in columns["dx"])
    print(
        f"{len(columns['dx'])} records, {scored} with a diagnosis that the Challenge scores; "
        f"records by fold: {' '.join(map(str, sizes))}"
    )
    print("stores: " + ", ".join(map(str, folders)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Extracted shards -> one memory-mapped store per sampling rate.  Second of the two steps to a store.

    python data_preparation/reformat_memmap.py
    python data_preparation/reformat_memmap.py --patients patients.csv

Makes <output_dir>/fs100, <output_dir>/fs250, ... with signals.dat, records.csv and meta.json.  All rates hold the same
records in the same order with the same folds: ten, stratified within each database over the Challenge's classes and
then over all other codes, with all records of a patient in one fold where --patients tells who they are.  The same
input gives the same bytes.
"""
import argparse
import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation import shards as engine
from data_preparation.folds import assign_folds
from util.challenge import CODE_TO_CLASS
from util.errors import ConfigError, ECGError, StoreError
from util.files import FolderLock
from util.leads import LEADS
from util.store import FOLDS, publish, write_store

OUTPUT_DIR = "./data_folder/data_summary_without_preprocessing"


def load_extraction(input_dir):
    """The finished extraction in a folder: (its settings, [(shard name, rows)])."""
    again = ("run data_preparation/data_extraction_without_preprocessing.py, or import_arrays.py there, (again); it "
             "resumes where it stopped")
    try:
        settings = json.loads((input_dir / "extraction.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise StoreError(f"no finished extraction in {input_dir}: {again}") from None
    if not isinstance(settings, dict) or settings.get("version") != engine.SHARD_VERSION:
        raise StoreError(f"{input_dir} was extracted by another version of this code: {again}")
    shards = []
    for name in settings["shards"]:
        try:
            table = json.loads((input_dir / "shards" / f"{name}.json").read_text("utf-8"))
            sizes = {fs: (input_dir / "shards" / f"{name}-fs{fs}.dat").stat().st_size for fs in table["bytes"]}
        except (OSError, ValueError):
            sizes = None
        if sizes is None or sizes != table["bytes"]:
            raise StoreError(f"shard {name} in {input_dir} is missing or damaged: {again}")
        shards.append((name, table["records"]))
    if not any(rows for _, rows in shards):
        raise StoreError(f"{input_dir} holds no usable record: see its skipped.csv for the reasons")
    return settings, shards


def read_patients(path):
    """{record: patient id} from a CSV file with columns record and patient_id; empty ids are left out."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"--patients {path} is unreadable: {error}") from None
    if not rows or not {"record", "patient_id"} <= rows[0].keys():
        raise ConfigError(f"--patients {path} needs the columns record and patient_id")
    return {row["record"].strip(): row["patient_id"].strip() for row in rows if (row["patient_id"] or "").strip()}


def add_folds(shards, patients):
    """Give every row its patient and fold."""
    rows = [row for _, rows in shards for row in rows]
    for row in rows:
        row["patient"] = patients.get(row.get("recording", row["record"]), "")
    folds = assign_folds([row["database"] for row in rows], [" ".join(row["dx"]) for row in rows],
                         [row["patient"] or row["path"] for row in rows])     # pieces of a recording have one path
    for row, fold in zip(rows, folds):
        row["fold"] = int(fold)
    return rows


def stored_rows(input_dir, shards, fs, progress):
    """(row, int16 counts) of every record at one rate, read one at a time."""
    for name, rows in shards:
        with open(input_dir / "shards" / f"{name}-fs{fs}.dat", "rb") as file:
            for row in rows:
                counts = np.fromfile(file, "<i2", row["length"][str(fs)] * len(LEADS)).reshape(-1, len(LEADS))
                progress.update()
                yield row | {"scale_uv": row["scale_uv"][str(fs)]}, counts


def reformat(input_dir, output_dir, patients_file=None):
    """Build the stores of all extracted rates; returns the rows of their records and their folders."""
    input_dir, output_dir = Path(input_dir), Path(output_dir)
    settings, shards = load_extraction(input_dir)
    patients = read_patients(patients_file) if patients_file else {}
    rows = add_folds(shards, patients)
    if patients and not any(row["patient"] for row in rows):
        raise ConfigError(f"--patients {patients_file} names none of the {len(rows)} records")
    if settings.get("unread"):
        print(f"records not read in the extraction, which are not in the store: {settings['unread']}; "
              "its command tries again")
    rates = settings["target_fs"]
    command = [settings["command"], "python data_preparation/reformat_memmap.py" +
               (f" --patients {Path(patients_file).name}" if patients_file else "")]
    new = {fs: output_dir / f".fs{fs}.tmp" for fs in rates}
    with FolderLock(output_dir, engine.PATIENCE):
        try:
            with tqdm(total=len(rows) * len(rates), unit="record", desc="building stores") as progress:
                for fs, folder in new.items():
                    shutil.rmtree(folder, ignore_errors=True)
                    write_store(folder, fs, stored_rows(input_dir, shards, fs, progress), command)
            for fs, folder in new.items():
                publish(folder, output_dir / f"fs{fs}")
        finally:
            for folder in new.values():
                shutil.rmtree(folder, ignore_errors=True)
    return rows, [output_dir / f"fs{fs}" for fs in rates]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", default=engine.OUTPUT_DIR,
                        help="what the extraction wrote (default: %(default)s)")
    parser.add_argument("--output_dir", default=OUTPUT_DIR, help="default: %(default)s")
    parser.add_argument("--patients", metavar="FILE.csv", help="columns record, patient_id: a patient's records share "
                        "a fold.  Give it wherever it is known, or test scores will be too good (PTB-XL: 18,885 "
                        "patients, 21,837 records)")
    args = parser.parse_args(argv)
    try:
        rows, folders = reformat(args.input_dir, args.output_dir, args.patients)
    except (ECGError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sizes = np.bincount([row["fold"] for row in rows], minlength=FOLDS)
    scored = sum(any(code in CODE_TO_CLASS for code in row["dx"]) for row in rows)
    print(f"{len(rows)} records, {scored} with a scored diagnosis; records by fold: {' '.join(map(str, sizes))}")
    print("stores: " + ", ".join(map(str, folders)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

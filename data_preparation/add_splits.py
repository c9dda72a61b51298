"""Add a table of splits to a store: who trains, selects and tests, as a lab or a publication says.

    python data_preparation/add_splits.py ./data_folder/data_summary_without_preprocessing splits.csv

The CSV file has a column record and either split (train, valid, test) or fold (whole numbers of any range), perhaps
patient.  It serves all sampling rates; in a config, dataset.protocol: given takes it.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.split_file import add_splits, read_splits
from util.errors import StoreError
from util.program import run_main
from util.store import RecordStore


def add_overlap_flag(parser) -> None:
    """--allow_patient_overlap."""
    parser.add_argument("--allow_patient_overlap", action="store_true",
                        help="take published splits that put a patient's records on two sides")


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="the folder that holds fs100, fs250, ...")
    parser.add_argument("splits", type=Path, metavar="FILE.csv")
    parser.add_argument("--name", help="of the table (default: the file's)")
    parser.add_argument("--ignore_unknown", action="store_true", help="leave out rows of records that the store lacks")
    add_overlap_flag(parser)
    args = parser.parse_args(argv)
    folders = sorted(args.store.glob("fs*/meta.json"))
    if not folders:
        raise StoreError(f"{args.store} holds no store (no fs<rate> in it): name the --output_dir of "
                         "data_preparation/reformat_memmap.py")
    store = RecordStore(folders[0].parent)
    table = read_splits(args.splits, store.records, ignore_unknown=args.ignore_unknown,
                        allow_patient_overlap=args.allow_patient_overlap)
    flags = [f"--{flag}" for flag in ("ignore_unknown", "allow_patient_overlap") if getattr(args, flag)]
    add_splits(args.store, table, args.name,
               " ".join(["python data_preparation/add_splits.py", args.splits.name, *flags]))


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Add a table of splits to a store: who trains, selects and tests, as a lab or a publication says.

    python data_preparation/add_splits.py ./data_folder/data_summary_without_preprocessing splits.csv

The CSV file has a column record and either split (train, valid, test) or fold (whole numbers of any range), perhaps
patient.  It serves all sampling rates; in a config, dataset.protocol: given takes it.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.add_labels import open_any_rate
from data_preparation.split_file import add_splits, read_splits
from util.program import run_main
from util.record_tables import table_name


def add_overlap_flag(parser) -> None:
    """--allow_patient_overlap."""
    parser.add_argument("--allow_patient_overlap", action="store_true",
                        help="take published splits that put a patient's records on two sides")


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="the folder that holds fs100, fs250, ..., or one of these")
    parser.add_argument("splits", type=Path, metavar="FILE.csv")
    parser.add_argument("--name", help="of the table (default: the file's)")
    parser.add_argument("--ignore_unknown", action="store_true", help="leave out rows of records that the store lacks")
    add_overlap_flag(parser)
    args = parser.parse_args(argv)
    store, name = open_any_rate(args.store), table_name("splits", args.splits, args.name)
    table = read_splits(args.splits, store.records, ignore_unknown=args.ignore_unknown,
                        allow_patient_overlap=args.allow_patient_overlap)
    flags = [f"--{flag}" for flag in ("ignore_unknown", "allow_patient_overlap") if getattr(args, flag)]
    add_splits(store.path.parent, table, name,
               " ".join(["python data_preparation/add_splits.py STORE", args.splits.name, "--name", name, *flags]))


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Extracted shards -> one memory-mapped store per sampling rate.  Second of the two steps to a
store.

    python data_preparation/reformat_memmap.py
    python data_preparation/reformat_memmap.py --patients patients.csv --labels labels.csv
    python data_preparation/reformat_memmap.py --splits splits.csv
    python data_preparation/reformat_memmap.py --drop duplicates.csv
    python data_preparation/reformat_memmap.py --input_dir chapman_extracted code15_extracted

Makes <output_dir>/fs100, <output_dir>/fs250, ... with signals.dat, records.csv and meta.json.
All rates hold the same records in the same order with the same folds: ten, stratified within each
database over --labels, else the Challenge's classes, and then over all other codes, with all
records of a patient in one fold where a file tells who they are.  The same input gives the same
bytes.

Recordings that their names call copies of others (PTB-XL's at 100 Hz) are left out, and those that
are in the store twice by their signals are counted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.places import EXTRACTED, STORE
from util.files import file_errors
from util.flags import Parser
from util.processes.program import run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--input_dir",
        nargs="+",
        action="extend",
        metavar="DIR",
        help="what an import wrote; several are joined into one store, in this order "
        f"(default: {EXTRACTED})",
    )
    parser.add_argument("--output_dir", default=STORE, help="default: %(default)s")
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
        "ones); folds are spread over these labels",
    )
    parser.add_argument(
        "--columns",
        dest="label_columns",
        nargs="+",
        metavar="NAME",
        help="of --labels, to take these alone, whatever they are called (default: all but ids, "
        "row numbers, folds and files)",
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
    parser.add_argument(
        "--allow_patient_overlap",
        action="store_true",
        help="take published splits that put a patient's records on two sides",
    )
    args = parser.parse_args(argv)
    args.input_dir = args.input_dir or [EXTRACTED]
    if args.label_columns and not args.labels:
        parser.error("--columns are those of --labels: give that, too")

    from data_preparation.building.reformat import reformat

    with file_errors():
        print(reformat(**vars(args)).summary())


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

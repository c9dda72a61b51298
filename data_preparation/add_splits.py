"""Add a table of splits to a store: who trains, selects and tests, as a lab or a publication
says.

    python data_preparation/add_splits.py ./data_folder/data_summary_without_preprocessing
        splits.csv

The CSV file has a column record and either split (train, valid, test) or fold (whole numbers of
any range), perhaps patient.  It serves all sampling rates; in a config, dataset.protocol: given
takes it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.program import run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
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
    parser.add_argument(
        "--allow_patient_overlap",
        action="store_true",
        help="take published splits that put a patient's records on two sides",
    )
    args = parser.parse_args(argv)

    from data_preparation.building.tables import add_splits

    add_splits(
        args.store,
        args.splits,
        name=args.name,
        ignore_unknown=args.ignore_unknown,
        allow_patient_overlap=args.allow_patient_overlap,
    )


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

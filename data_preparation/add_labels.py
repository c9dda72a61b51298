"""Add a table of labels to a store that exists: a CSV file with the column record, then columns
of labels.

    python data_preparation/add_labels.py ./data_folder/data_summary_without_preprocessing
        labels.csv
    python data_preparation/add_labels.py STORE labels.csv --name rhythm --ignore_unknown

0/1 columns are multi-label, one column of words multi-class, columns of other numbers regression;
an empty cell is unknown.  A column patient says whose record it is.  Columns of ids, row numbers,
folds and files are left out.  The table goes to STORE/labels/<name>.csv and serves every sampling
rate; configs choose it by dataset.labels: <name>.  See docs/data.md.
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
    parser.add_argument(
        "labels", type=Path, metavar="CSV", help="column record, then columns of labels"
    )
    parser.add_argument("--name", help="of the table (default: as the file is called)")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="take these columns alone, whatever they are called (default: all but ids, row "
        "numbers, folds and files)",
    )
    parser.add_argument(
        "--ignore_unknown",
        action="store_true",
        help="leave out rows of records that the store lacks, which are an error otherwise",
    )
    args = parser.parse_args(argv)

    from data_preparation.building.tables import add_labels

    add_labels(
        args.store,
        args.labels,
        name=args.name,
        columns=args.columns,
        ignore_unknown=args.ignore_unknown,
    )


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

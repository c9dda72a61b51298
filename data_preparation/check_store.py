"""Check a store and its tables of labels and splits: their files fit each other and no byte has
changed since they were written; and, where asked, find the recordings that are in it twice.

    python data_preparation/check_store.py ./data_folder/data_summary_without_preprocessing
    python data_preparation/check_store.py ./data_folder/data_summary_without_preprocessing/fs100
    python data_preparation/check_store.py ./data_folder/data_summary_without_preprocessing \\
        --duplicates

Prints a line a store; exits with 0 if all are sound, else with 2.

--duplicates looks for recordings that share at least 4 s of their signal: exact copies, and
copies that were shifted, cut, rescaled, resampled, filtered or have a little noise, within and
across databases.  What it finds is no fault of the store: the exit status stays 0.  Each pair is
a row of the CSV file:

    record_a, database_a, fold_a, patient_a    the earlier one in the store; and the same of b
    kind          exact      the same samples
                  rescaled   the same seconds, another gain (2 % and more) or offset (0.02 mV)
                  near       the same seconds, resampled, filtered or with noise
                  shifted    they overlap in part, whatever the gain
    correlation   of what they share, the median over leads; 0.98 and more
    shift         seconds by which b starts after a
    overlap       seconds that they share
    gain          amplitude of b over that of a
    leak          "fold": a and b are in different folds (a test recording seen in training);
                  "patient": they have different patients; "fold patient": both
    drop          the one to leave out: without diagnoses, else the shorter, else the later

Give the file to reformat_memmap.py --drop, and the store is made again without them, with new
folds.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.files import file_errors
from util.flags import Parser
from util.processes.program import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "store", type=Path, help="folder of one rate, or the folder that holds fs100, fs250, ..."
    )
    parser.add_argument(
        "--duplicates",
        action="store_true",
        help="list recordings that occur twice, at the lowest "
        "rate (all rates hold the same records); minutes for 100,000 recordings",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.csv", help="of --duplicates (default: duplicates.csv)"
    )
    args = parser.parse_args(argv)
    if args.output and not args.duplicates:
        parser.error("--output is the file of --duplicates: give that, too")

    from data_preparation.checking.store import check_store

    pairs = (args.output or Path("duplicates.csv")) if args.duplicates else None
    with file_errors():
        return 0 if check_store(args.store, pairs) else 2


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

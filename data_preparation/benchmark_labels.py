"""Labels and splits of a public data set, from its own metadata files into a store that holds its
recordings.

    python data_preparation/benchmark_labels.py ptbxl --store STORE --metadata DIR

Writes tables of labels and one of splits beside the store's sampling rates, prints how many
records of every class each part has, and compares the metadata with what is known of the
published versions: where they differ, a warning says what was expected and what was found.  They
go to the set's own database alone, which is found by its name.  What each set does:
docs/benchmarks.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.benchmarks.published import BENCHMARKS
from data_preparation.places import DOWNLOADS, STORE
from util.processes.program import run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(STORE),
        metavar="STORE",
        help="the folder that holds fs100, fs250, ... (default: %(default)s)",
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        metavar="DIR",
        help="folder of the set's own CSV files (default: where download.py puts them, "
        f"{DOWNLOADS}/NAME)",
    )
    parser.add_argument(
        "--database",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="databases of the store that hold the set's recordings (default: those that are "
        "called as the set is)",
    )
    args = parser.parse_args(argv)

    from data_preparation.benchmarks.tables import make_tables

    folder = args.metadata or Path(DOWNLOADS) / args.name
    print("\n".join(make_tables(args.name, args.store, folder, args.database)))


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

"""Compare supervised runs: their scores on the selection folds and the keys that differ.

    python experiments/compare_runs.py output/sweep/*
    python experiments/compare_runs.py output/finetune output/scratch --by AUROC --test

A run is the folder of one fold or of several (means over folds, with deviations).  The best comes
first, by its selection score: test.target_metric, or --by.  Choose by that, and look at --test,
which shows the test scores as well, once the choice is made.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.program import run_main


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--by",
        metavar="SCORE",
        help="sort by this score of the selection folds (default: test.target_metric)",
    )
    parser.add_argument("--test", action="store_true", help="show the test scores, too")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

import pandas as pd

from util.reports.comparison import compare, read_run


def show(table: pd.DataFrame, title: str, *, csv: bool) -> None:
    """Print a table under its title."""
    if csv:
        print(table.to_csv(float_format="%.6g"), end="")
    else:
        print(f"{title}\n{table.to_string(float_format='{:.4g}'.format)}")


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    runs = [read_run(folder) for folder in arguments.runs]
    tables = {"scores on the selection folds": compare(runs, arguments.by)}
    if arguments.test:
        tables["scores on the test folds"] = compare(runs, arguments.by, test=True)
    for number, (title, table) in enumerate(tables.items()):
        print("\n" * bool(number), end="")
        show(table, title, csv=arguments.csv)


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

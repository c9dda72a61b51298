"""Test metrics of several fine-tuning runs, side by side.

    python experiments/compare_runs.py output/finetune output/scratch [...]

Each is the folder of one fold's run, with its test_metrics.csv; several folds have a summary.csv
of their own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.program import run_main

parser = Parser(description=__doc__)
parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
if __name__ == "__main__":
    parser.parse_args()  # --help and a wrong flag end here, before anything slow is imported

from collections.abc import Iterable

import pandas as pd

from util.errors import ECGError


def compare(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Return a row for each run: what its test_metrics.csv holds, by the run's name.

    Raises:
        ECGError: a run has no test_metrics.csv.
    """
    rows = {}
    for folder in map(Path, folders):
        path = folder / "test_metrics.csv"
        if not path.is_file():
            raise ECGError(
                f"{path} is missing: the run has not finished, or it has several folds and a "
                "summary.csv"
            )
        rows[folder.name] = pd.read_csv(path).iloc[0]
    table = pd.DataFrame(rows).T
    table["records"] = table["records"].astype(int)
    return table


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    print(compare(parser.parse_args(argv).runs).to_string())


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

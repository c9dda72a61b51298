"""Make the page of a tested run again, or compare several runs.

    python experiments/report.py output/ptbxl                      report.html in that folder
    python experiments/report.py output/ptbxl --rule sensitivity=0.9
    python experiments/report.py RUN RUN ... --markdown            test scores in one table

The page needs the run's folder alone: curves, scores, every class with its thresholds,
calibration, subgroups; where its store is still there, the records with the largest loss, too.
Thresholds are chosen on the selection fold.  Of a pre-training: its curves and reconstructions.
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
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a tested run")
    parser.add_argument(
        "--rule",
        metavar="RULE",
        help="of thresholds: youden, f1 or sensitivity=S (default: youden)",
    )
    shape = parser.add_mutually_exclusive_group()
    for name in ("markdown", "latex", "csv"):
        shape.add_argument(
            f"--{name}", action="store_true", help=f"print the table of all runs as {name}"
        )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from util.errors import ConfigError
from util.reports.comparison import compare, read_run
from util.reports.run_report import write_report
from util.scoring.operating_points import wanted_sensitivity


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    if arguments.rule:
        wanted_sensitivity(arguments.rule)
    if not (arguments.markdown or arguments.latex or arguments.csv):
        for run in arguments.runs:
            print(write_report(run, arguments.rule))
        return
    if arguments.rule:
        raise ConfigError("--rule: no effect on a table of runs, which has no thresholds")
    table = compare([read_run(run) for run in arguments.runs], test=True).reset_index()
    if arguments.latex:
        print(table.to_latex(index=False, float_format="%.4f"), end="")
    elif arguments.csv:
        print(table.to_csv(index=False, float_format="%.6g"), end="")
    else:
        lines = [list(table.columns), ["---"] * len(table.columns)]
        lines += [[_cell(value) for value in row] for row in table.to_numpy().tolist()]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

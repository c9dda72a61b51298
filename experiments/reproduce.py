"""Re-run a table of RESULTS.md: every training it needs, one row of results/<table>.csv each, and
the table of these.

    python experiments/reproduce.py fusion --set dataset.store=STORE --budget 60
    python experiments/reproduce.py fusion --only gated --fold 0                    one cell
    python experiments/reproduce.py fusion --markdown  RESULTS.md from the CSV, no training
    python experiments/reproduce.py fusion --latex fusion.tex

A table is configs/tables/<table>.yaml: what all its rows share, and its rows; docs/reproduce.md
explains the keys. What is in the CSV is not run again, unless its row is defined otherwise by now,
or the store is another one (--stale lists what is); a training that was stopped continues where it
was.  Trainings, with their predictions, are kept in
--output_dir/<table>/<row>-<fingerprint>/seed<s>/fold<k>; while those of all folds are there, the
intervals of the table are a bootstrap over patients (util/scoring/intervals.py), written to
results/<table>.intervals.csv.  Encoders, in --output_dir/pretrained, are trained once for all
rows and tables that ask for the same one.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.config.command_line import add_set_flag, said
from util.flags import Parser
from util.processes.program import run_main

SCREEN = "-"  # in the place of a file
PAGE = "RESULTS.md"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument("table", help="a file of configs/tables, without its suffix")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cuda", "cpu"), help="default: %(default)s"
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="MIN",
        help="start no further training after this many minutes",
    )
    parser.add_argument("--only", metavar="ROW", help="this row alone")
    parser.add_argument(
        "--fold", type=int, nargs="+", metavar="K", help="these of the table's folds alone"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="trainings at the same time, in as many processes, without progress bars (default: 1)",
    )
    parser.add_argument(
        "--output_dir",
        default="./output/tables",
        metavar="DIR",
        help="for trainings and predictions",
    )
    add_set_flag(parser, "override one key of every config, e.g. --set dataset.store=DIR")
    parser.add_argument(
        "--markdown",
        nargs="?",
        const=PAGE,
        metavar="FILE",
        help="put the table, from its CSV, into RESULTS.md, or into FILE; train nothing",
    )
    parser.add_argument(
        "--latex", nargs="?", const=SCREEN, metavar="FILE", help="the same as LaTeX, printed"
    )
    parser.add_argument(
        "--csv", nargs="?", const=SCREEN, metavar="FILE", help="its numbers as CSV, printed"
    )
    parser.add_argument(
        "--stale",
        action="store_true",
        help="list what is in the CSV by another definition, store or encoder, and train nothing",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from experiments.tables.definition import Row, Table, read_table
from experiments.tables.gates import write_gates
from experiments.tables.intervals import write_intervals
from experiments.tables.page import latex, markdown, numbers, write_markdown
from experiments.tables.results import describe_stale
from experiments.tables.runs import run_all, search_thresholds
from experiments.tables.trainings import Settings
from util.data.splits import parse_folds
from util.errors import ConfigError
from util.files import write_text


def chosen_rows(table: Table, only: str | None) -> list[Row]:
    """Return the rows that --only leaves; a ConfigError where the table has none of that name."""
    rows = [row for row in table.rows if only in (None, row.name)]
    if not rows:
        known = ", ".join(row.name for row in table.rows)
        raise ConfigError(f"--only {only}: the table's rows are {known}")
    return rows


def chosen_runs(
    table: Table, rows: list[Row], given: list[int] | None
) -> list[tuple[Row, int, int]]:
    """Return the (row, seed, fold) that --fold leaves; a ConfigError where there are none."""
    folds = parse_folds(given or "all")
    runs = [
        (row, seed, fold)
        for seed in table.seeds
        for fold in folds
        for row in rows
        if fold in row.folds
    ]
    if not runs:
        tested = sorted({fold for row in rows for fold in row.folds})
        raise ConfigError(f"--fold {folds}: these rows are tested on {tested}")
    return runs


def show(table: Table, arguments: argparse.Namespace) -> None:
    """Write or print the table in the forms that were asked for."""
    if arguments.markdown == PAGE:
        write_markdown(table)
    elif arguments.markdown:
        put(markdown(table), arguments.markdown)
    if arguments.latex:
        put(latex(table), arguments.latex)
    if arguments.csv:
        put(numbers(table).to_csv(index=False, float_format="%.6g").strip(), arguments.csv)


def put(text: str, file: str) -> None:
    """Write a text to a file, or print it."""
    if file == SCREEN:
        print(text)
    else:
        write_text(file, f"{text}\n")


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    table = read_table(arguments.table)
    if arguments.markdown or arguments.latex or arguments.csv:
        show(table, arguments)
        return
    rows = chosen_rows(table, arguments.only)
    runs = chosen_runs(table, rows, arguments.fold)
    settings = Settings(arguments.output_dir, arguments.device, said(arguments.overrides))
    stale = describe_stale(table, settings)
    if arguments.stale:
        print("\n".join(stale) or "nothing is stale")
        return
    if stale:
        print(f"{len(stale)} results are stale and count no longer, e.g. {stale[0]} (see --stale)")
    run_all(table, runs, settings, jobs=arguments.jobs, budget=arguments.budget)
    search_thresholds(table, rows, settings)
    write_intervals(table, settings)
    write_gates(table, settings)
    print(markdown(table, settings))


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))

"""Compare encoders: by modes, by tasks and by shares of the labels, in one table.

    python experiments/evaluate.py --weights A/encoder.pth B/encoder.pth random:16 \\
        --modes knn linear attention finetune linear-then-finetune --labels 1 10 100 \\
        --set dataset.store=STORE --device cpu --output_dir OUT

Each encoder sees records as its training did.  Always among the rows: random (its network with
random weights, by 16 seeds unless --weights says random:N) in the modes that leave an encoder as
it is, and scratch (its network, trained from random weights) in those that train; both of the
first encoder's network.  All trainings take --steps steps, under configs/overlay/evaluation.yaml.
What is chosen (neighbours, penalty, epoch) is chosen on the selection fold.

Leaves in --output_dir: results.csv, a row for each cell, fold and seed, with what made it;
table.md, table.tex and table.csv, with intervals and corrected differences; and cells/, the
predictions and trainings.  The same command goes on where it stopped, and runs again what another
definition, store or file of weights made.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.config.command_line import add_set_flag
from util.flags import Parser
from util.processes.program import run_main

MODES = ("knn", "linear", "attention", "finetune", "linear-then-finetune")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--weights", nargs="+", required=True, metavar="FILE", help="encoder files, and random:N"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="T",
        help="tables of labels of the store (default: its own labels, by dataset.classes)",
    )
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES, help="default: all")
    parser.add_argument(
        "--labels",
        nargs="+",
        type=float,
        default=[100.0],
        metavar="P",
        help="per cent of the training labels (default: 100)",
    )
    parser.add_argument(
        "--steps", type=int, default=200, metavar="N", help="of each training (default: 200)"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples (default: 1000)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="cells at the same time (default: 1)"
    )
    parser.add_argument(
        "--config_path", metavar="YAML", help="the network of weights that do not say theirs"
    )
    parser.add_argument(
        "--overlay", action="append", default=[], metavar="NAME", help="merged over the budget"
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cuda", "cpu"), help="default: %(default)s"
    )
    parser.add_argument("--output_dir", default="./output/evaluation", metavar="DIR")
    add_set_flag(parser, "override one key of every config, e.g. --set dataset.store=DIR")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from experiments.evaluation.candidates import read_candidates
from experiments.evaluation.cells import OWN, Settings, all_cells, job_of
from experiments.evaluation.comparison import compare
from experiments.evaluation.page import write_tables
from experiments.evaluation.runs import check_weights, run_all
from util.console import begin_job, said
from util.errors import ConfigError


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    given = parse_arguments(argv)
    if min(given.steps, given.jobs, given.bootstrap) < 1:
        raise ConfigError("--steps, --jobs and --bootstrap are whole numbers from 1")
    if not all(0 < share <= 100 for share in given.labels):
        raise ConfigError(f"--labels {given.labels}: give per cent, above 0 and up to 100")
    begin_job()
    settings = Settings(
        given.output_dir,
        given.device,
        given.overlay,
        given.overrides,
        given.steps,
        given.bootstrap,
    )
    candidates = read_candidates(given.weights, given.config_path)
    tasks, modes = dict.fromkeys(given.tasks or [OWN]), dict.fromkeys(given.modes)
    cells = all_cells(candidates, [*tasks], [*modes], [*dict.fromkeys(given.labels)], settings)
    if not cells:
        raise ConfigError(f"no encoder has a mode {' or '.join(given.modes)}; choose others")
    planned = [(cell, job_of(cell, settings)) for cell in cells]
    check_weights(planned)  # what is wrong is said before anything is run
    remarks = [*dict.fromkeys(said())]
    run_all(planned, settings, given.jobs)
    print(write_tables(compare(planned, settings), Path(given.output_dir), remarks))


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))

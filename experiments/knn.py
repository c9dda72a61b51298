"""Score an encoder by k nearest neighbours in its features, without any training.

    python experiments/knn.py --config_path configs/downstream/st_mem.yaml \\
        --encoder_path output/st_mem/encoder.pth
    python experiments/knn.py --config_path configs/downstream/st_mem.yaml --overlay scratch --k 10

Leaves config.yaml, test_metrics.csv and test_predictions.csv in <output_dir>/<exp_name> (with
several folds, in fold<k>/ there, and summary.csv beside these), as main_finetune.py does, but not
over the results of a training.  Neighbours are the records that
main_finetune.py would train on.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.config.command_line import argument_parser, config_from
from util.config.keys import FinetuneConfig
from util.processes.program import run_main

parser = argument_parser(__doc__, "configs/downstream/st_mem.yaml", FinetuneConfig)
parser.add_argument(
    "--k", type=int, default=20, metavar="N", help="number of neighbours (default: %(default)s)"
)
if __name__ == "__main__":
    parser.parse_args()  # --help and a wrong flag end here, before anything slow is imported

from util.errors import ConfigError
from util.evaluation.neighbours import score_neighbours


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parser.parse_args(argv)
    idle = [
        f"--set {each}"
        for each in arguments.overrides
        if each.startswith("train.") and "train.amp=" not in each
    ]
    idle += [
        f"--{name}" for name in ("resume", "start_epoch") if getattr(arguments, name) is not None
    ]
    if idle:
        raise ConfigError(
            f"no effect here, where nothing is trained: {', '.join(idle)}; leave that out"
        )
    score_neighbours(config_from(arguments, FinetuneConfig), arguments.k)


if __name__ == "__main__":
    sys.exit(run_main(main))

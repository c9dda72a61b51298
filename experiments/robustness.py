"""Test the same weights on disturbed records: noise, lost and swapped leads, other rates, gains and
lengths.

    python experiments/robustness.py --weights output/ptbxl/best-AUROC.pth --output_dir OUT
    python experiments/robustness.py --weights best-AUROC.pth --output_dir OUT \\
        --set dataset.store=STORE

Leaves in OUT: robustness.csv, a row for each disturbance with the score and its difference to the
undisturbed records, robustness.png, and console.txt, what was said.  Records are those that the
training tested; a record is disturbed alike for every model, by the seed and its name.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.config.command_line import add_set_flag, said
from util.flags import Parser
from util.processes.devices import add_gpu_flag, one_device
from util.processes.program import run_main


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument("--weights", required=True, metavar="PTH", help="of a classifier")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="made if missing")
    parser.add_argument(
        "--score", default="AUROC", metavar="NAME", help="of docs/scores.md (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the noise (default: %(default)s)"
    )
    add_set_flag(parser, "override one key of the config, e.g. --set dataset.store=DIR")
    add_gpu_flag(parser, several=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

import numpy as np

from util.challenge import ABBREVIATIONS
from util.console import begin_job, keep_in, note
from util.data.strata import patient_numbers
from util.evaluation.trained import load_trained
from util.files import write_frame
from util.handover.load import classifier_of
from util.handover.robustness import measure, plot_robustness
from util.jobs.job import LabelledJob
from util.scoring.predictions import Predictions
from util.scoring.scores import compute_scores, parse_scores


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    begin_job()
    arguments = parse_arguments(argv)
    device = one_device(arguments.gpu)
    trained = load_trained(arguments.weights, said(arguments.overrides))
    classifier = classifier_of(trained).to(device)
    job = LabelledJob(trained.config)
    fold = job.fold(job.folds[0])
    rows = fold.parts["test"]
    records = job.store.records.iloc[rows]
    blank = np.zeros((len(rows), len(job.classes)))
    test = Predictions(
        records=records["record"].to_numpy(),
        databases=records["database"].to_numpy(),
        labels=fold.labels_of("test"),
        outputs=blank,
        logits=blank,
        patients=patient_numbers(fold.patients_of("test")),
        classes=job.classes,
        task=job.task,
        fold=fold.number,
    )
    signals = [job.store.read(row, leads=classifier.leads).T for row in rows]
    scores = parse_scores([arguments.score], ABBREVIATIONS, job.task)

    def score(predictions: Predictions) -> float:
        (value,) = compute_scores(
            predictions.outputs, predictions.labels, scores, job.task
        ).values()
        return value

    table = measure(classifier, test, signals, score, arguments.seed)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    keep_in(folder)
    write_frame(folder / "robustness.csv", table, float_format="%.6g")
    plot_robustness(table, f"{arguments.score}, {len(rows)} test records").savefig(
        folder / "robustness.png", dpi=150
    )
    note(f"{arguments.weights}, {trained.config.model_name}, {fold.title}:")
    note(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

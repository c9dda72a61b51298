"""Diagnose recordings with trained weights: recordings of any format or a store in, one
Challenge-format CSV a record out, and a page for people.

    python experiments/predict.py --weights ./checkpoints/base_signal/fold0_bestPRC.pth \\
        --input RECORDINGS --output OUT --plot
    python experiments/predict.py --weights fold*_bestPRC.pth --decide sensitivity=0.95 \\
        --input A0001.hea --output OUT --pdf --json
    python experiments/predict.py --weights fold0/best-loss.pth --input ecgs.npy --fs 500 \\
        --output OUT
    python experiments/predict.py --weights fold0/best-loss.pth --input STORE --output OUT
    python experiments/predict.py --weights fold0/best-loss.pth --watch INBOX --output OUT --plot

Formats: WFDB (.hea), DICOM (.dcm, needs pydicom), hospital exports (GE MUSE, Philips and HL7 XML,
EDF+; need ecgdatakit), .npy, HDF5 and CSV, of which --fs must be said, and perhaps --units,
--leads, --layout.  A folder may hold several.  STORE is the folder that holds fs100/, fs250/, ...
Limb leads that are missing are computed where two of I, II and III are there, with a remark.

Several weights are an ensemble: the mean of their probabilities.  Recordings of any sampling rate
and length are resampled, cropped and transformed as in the evaluation after training, as the
weights themselves say; one shorter than a crop is padded, with a remark.  A recording that cannot
be read is reported and does not stop the rest.

A class is output where its probability is at least its threshold.  --decide says by which rule
weights chose theirs, on their selection fold: f1 (the default), youden or sensitivity=S; 0.5 is
the same for all classes, and for weights that keep none.  --thresholds takes a file that
threshold_search.py left instead.  One of its --method expected, whose answers have the highest
expected Challenge score, decides the Challenge's CSV alone; page and summary go by it with
--decide expected.  Diagnoses that exclude each other are marked.

Leaves in OUT: <record>.csv (line 1 #<record>, line 2 SNOMED CT codes, line 3 outputs 0 or 1, line
4 probabilities); <record>.png with --plot, the ECG on paper with what was predicted, with --pdf
also <record>.pdf; <record>.json and summary.json with --json; and summary.csv: record, file,
remark, the diagnoses in words, those that contradict each other, a probability for each class.
Classes without codes, of a table of labels, go by name.  Weights of a regression leave their
predictions in the labels' own units, in <record>.csv on line 3.

--watch looks at a folder every two seconds and predicts what is there and what arrives, until
Ctrl-C or SIGTERM.  Predictions are for research use only.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.devices import add_gpu_flag, one_device
from util.processes.program import run_main
from util.recordings.flags import Given, add_recording_flags


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--weights",
        required=True,
        nargs="+",
        metavar="PTH",
        help="fold<k>_best<ROC|PRC>.pth, best-<metric>.pth; several are an ensemble",
    )
    parser.add_argument(
        "--decide",
        metavar="RULE",
        help="youden, f1, sensitivity=S (thresholds of the weights' selection fold), 0.5, or "
        "expected, for the Challenge's classes: the highest expected Challenge score (default: "
        "the file of --thresholds, or else f1)",
    )
    parser.add_argument(
        "--coverage",
        type=float,
        metavar="C",
        help="of the label sets on page and in JSON: 0.8, 0.9 or 0.95 (default: 0.9)",
    )
    parser.add_argument("--thresholds", metavar="JSON", help="of experiments/threshold_search.py")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--input",
        metavar="PATH",
        help="a folder, searched at any depth, one file, or a store",
    )
    given.add_argument(
        "--watch",
        metavar="DIR",
        help="a folder: predict what is there and what arrives, until stopped",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="made if missing")
    parser.add_argument(
        "--plot",
        action="store_true",
        help="draw a page of each recording: on ECG paper, with what was predicted",
    )
    parser.add_argument("--pdf", action="store_true", help="write these pages as PDF, too")
    parser.add_argument("--json", action="store_true", help="write JSON beside the CSV files")
    add_recording_flags(parser)
    add_gpu_flag(parser, several=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from util.console import begin_job, keep_in
from util.errors import ECGError
from util.predicting.answers import Model
from util.predicting.certainty import certainty_of
from util.predicting.decisions import check_rule, decisions
from util.predicting.ensemble import load_ensemble, rates_of
from util.predicting.job import PredictionJob
from util.predicting.recordings import find_sources
from util.predicting.watching import watch
from util.scoring.thresholds import load_thresholds


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    begin_job()
    arguments = parse_arguments(argv)
    check_rule(arguments.decide)
    device, ensemble = one_device(arguments.gpu), load_ensemble(arguments.weights)
    searched = load_thresholds(arguments.thresholds) if arguments.thresholds else None
    sure = certainty_of(ensemble, arguments.coverage)
    model = Model(ensemble, *decisions(ensemble, arguments.decide, searched), sure)
    said = Given.of(arguments)
    sources = find_sources(arguments.input, rates_of(ensemble), said) if arguments.input else []
    for trained in ensemble:
        trained.classifier.to(device)
        trained.pipeline.to(device)
    pages = [".png"] * (arguments.plot or arguments.pdf) + [".pdf"] * arguments.pdf
    job = PredictionJob(model, device, said, Path(arguments.output), pages, arguments.json)
    job.folder.mkdir(parents=True, exist_ok=True)
    keep_in(job.folder)
    if arguments.watch:
        watch(job, arguments.watch)
    else:
        job.run(sources)
    job.report()
    if sources and not job.rows:
        first = next(iter(job.failed.values()))["remark"]
        raise ECGError(f"none of the {len(sources)} recordings could be read; the first: {first}")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

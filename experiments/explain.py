"""Show what a trained network looked at in recordings of any format, or in records of a store.

    python experiments/explain.py --weights best-AUROC.pth --input STORE --output explained
    python experiments/explain.py --weights best-AUROC.pth --input A0001.hea --output explained
    python experiments/explain.py --weights best-AUROC.pth --input STORE --output explained \\
        --records JS20000 JS20001 --class AF --pdf
    python experiments/explain.py --weights encoder.pth --input STORE --output explained --map

STORE is the folder that holds fs100/, fs250/, ... (docs/data.md); --input may as well be a file or
a folder of recordings, as of predict.py and with its flags.  For each record, shaded over its
traces on ECG paper: R.occlusion.png, R.gradients.png (integrated gradients) and, of transformers,
R.attention.png and R.leads.png; the numbers are in R.npz, one row a picture in explained.csv.  A
classifier is explained for --class, or for the record's likeliest class.  An encoder without
classes is explained by how far its features turn; of masked autoencoders there is also a
R.rebuilt-<percent>.png for each of --ratios.  --map draws all records by their features: by PCA,
and by UMAP where the package umap-learn is installed.  --gate draws how the gate of a fusion weighs
signal and spectrogram in all records, class by class of the labels that it was trained on.
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
        "--weights", required=True, metavar="PTH", help="weights of a classifier, or encoder.pth"
    )
    parser.add_argument("--input", required=True, metavar="PATH", help="a store, folder or file")
    parser.add_argument("--output", required=True, metavar="DIR", help="where figures go")
    parser.add_argument(
        "--records", nargs="+", metavar="NAME", help="which (default: three of them)"
    )
    parser.add_argument(
        "--class",
        dest="wanted",
        metavar="NAME",
        help="name or code of the class to explain (default: each record's likeliest)",
    )
    parser.add_argument(
        "--window",
        type=float,
        default=0.2,
        metavar="S",
        help="seconds that occlusion hides at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--ratios",
        type=float,
        nargs="+",
        default=[0.25, 0.5, 0.75],
        metavar="R",
        help="shares of patches to hide in reconstructions (default: 0.25 0.5 0.75)",
    )
    parser.add_argument("--map", action="store_true", help="a map of all records, too")
    parser.add_argument(
        "--gate", action="store_true", help="what the gate of a fusion weighs, class by class"
    )
    parser.add_argument("--pdf", action="store_true", help="each figure as PDF, too")
    add_recording_flags(parser)
    add_gpu_flag(parser, several=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from util.console import begin_job
from util.errors import ConfigError
from util.explain.chosen import of_files, of_store
from util.explain.job import ExplainJob
from util.formats.any_file import check_fs, find_places
from util.handover.load import is_classifier, load_classifier, load_encoder
from util.jobs.setup import store_at
from util.predicting.recordings import is_store, refuse_flags


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    begin_job()
    arguments = parse_arguments(argv)
    device, weights = one_device(arguments.gpu), arguments.weights
    load = load_classifier if is_classifier(weights) else load_encoder
    applied = load(weights, device)
    job = ExplainJob(
        applied,
        Path(weights),
        Path(arguments.output),
        wanted=arguments.wanted,
        window=arguments.window,
        ratios=tuple(arguments.ratios),
        pdf=arguments.pdf,
    )
    given, names, said = arguments.input, arguments.records, Given.of(arguments)
    if not is_store(given):
        for flag in ("map", "gate"):
            if getattr(arguments, flag):
                raise ConfigError(f"--{flag} needs a store, and {given} is none (docs/data.md)")
        places = find_places(given, said)
        check_fs(places, said)
        job.explain(of_files(given, places, applied, names, said))
        return
    refuse_flags(said)
    store = store_at(given, applied.fs, "--input")
    job.explain(of_store(store, applied, names))
    if arguments.map:
        job.map(store)
    if arguments.gate:
        job.gate(store)


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

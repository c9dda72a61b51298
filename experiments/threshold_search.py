"""Search the class thresholds of trained weights on their selection folds, and score them on the
test folds: for the best Challenge score, or for any labels by F1, Youden's index or a sensitivity.

    python experiments/threshold_search.py --model_type signal --best-type PRC --gpu 0 \\
        --weight_folder ./checkpoints/base_signal
    python experiments/threshold_search.py --weight_folder output/st_mem_finetuned \\
        --method published --fold 0
    python experiments/threshold_search.py --weight_folder output/own_labels --method f1

For every fold k with weights in the folder: predict its selection fold (k + 1) and its test fold
(k), search on the first, report on the second.  --method pooled searches on the selection folds
of all these weights together, except those whose selection fold is fold k; --method expected
decodes by expected score and searches nothing.  These and ascent, published and single are for
the Challenge's 24 classes; f1, youden and sensitivity=S (the highest threshold that reaches S)
look at each class by itself, of any multi-label labels, unknown ones left out.  Weights trained
with dataset.protocol: published have one fold for both, and the numbers are optimistic then.
Predictions are kept in <weight_folder>/predictions/ and used again while the weights and the
store stay as they are.

Leaves in <weight_folder>/thresholds_<best type>_<method>/: thresholds_fold<k>.json for the
weights of fold k and thresholds.json, the median over folds (pooled: searched on all selection
folds), both for experiments/predict.py; scores.csv; fold<k>.png, the score against the threshold
of each class, where the Challenge score was searched; classes_fold<k>.csv, each class on the
test fold, where each was looked at by itself.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.config.command_line import add_set_flag, said
from util.flags import Parser
from util.processes.devices import add_gpu_flag, one_device
from util.processes.program import run_main

MODELS = {"signal": "xresnet1d50", "spectrogram": "spectrogram_se_resnet34", "ensemble": "fusion"}
METHODS = ("expected", "ascent", "published", "single", "pooled", "f1", "youden", "sensitivity=S")
DEFAULT_METHOD = "expected"


def method(text: str) -> str:
    """Return a method of METHODS as it is written on the command line.

    Raises:
        argparse.ArgumentTypeError: there is none of this name.
    """
    if text in METHODS[:-1] or re.fullmatch(r"sensitivity=(0?\.\d+|1|1\.0*)", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(METHODS)}")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--weight_folder",
        required=True,
        metavar="DIR",
        help="the --save_folder of a training, or a result folder of main_finetune.py",
    )
    parser.add_argument(
        "--model_type", choices=MODELS, help="what the weights must be of (default: any model)"
    )
    parser.add_argument(
        "--gating", action="store_true", help="with --model_type ensemble: the one with a gate"
    )
    parser.add_argument(
        "--best-type",
        "--best_type",
        choices=("ROC", "PRC"),
        default="PRC",
        dest="best_type",
        help="weights chosen by AUROC or by AUPRC (default: %(default)s)",
    )
    parser.add_argument(
        "--fold",
        type=int,
        nargs="+",
        metavar="K",
        help="test folds 0-9; 11, as published, or none: every fold with weights in the folder",
    )
    parser.add_argument(
        "--method",
        type=method,
        metavar="METHOD",
        default=DEFAULT_METHOD,
        help="ascent: coordinate ascent over all "
        "useful thresholds; published: one pass over 0.1 ... 0.5; single: one threshold for all "
        "classes; pooled: ascent on the selection folds of all weights but those that select on "
        "the "
        "test fold; expected: outputs decoded by expected score, no thresholds; for any labels f1, "
        "youden, sensitivity=S such as sensitivity=0.9 (default: %(default)s)",
    )
    parser.add_argument(
        "--min_positives",
        type=int,
        default=5,
        metavar="N",
        help="ascent and pooled: classes with "
        "fewer positive records in the search share one threshold (default: %(default)s; 0: "
        "each has "
        "its own)",
    )
    parser.add_argument(
        "--config_path",
        metavar="YAML",
        help="config of the model (default: the one in the weights)",
    )
    add_set_flag(
        parser, "override one key of the config, e.g. --set dataset.store=DIR where it has moved"
    )
    add_gpu_flag(parser, several=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from util.data.splits import ALL_FOLDS, parse_folds
from util.errors import CheckpointError
from util.evaluation.threshold_search import search_folder
from util.evaluation.trained import Trained


def check_model(trained: Trained, wanted: str | None, gating: bool) -> None:
    """Raise a CheckpointError where weights are not of the model that the flags name."""
    config = trained.config
    gated = bool(config.model.get("gating"))
    if wanted and (config.model_name != MODELS[wanted] or wanted == "ensemble" and gated != gating):
        raise CheckpointError(
            f"{trained.path} is of {config.model_name}{' with a gate' if gated else ''}; give the "
            f"--model_type{' and --gating' if gated else ''} of these weights, or neither"
        )


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    device = one_device(arguments.gpu)
    folds = None if arguments.fold in (None, [ALL_FOLDS]) else parse_folds(arguments.fold)
    search_folder(
        arguments.weight_folder,
        arguments.method,
        device,
        best=arguments.best_type,
        folds=folds,
        min_positives=arguments.min_positives,
        overrides=said(arguments.overrides),
        config_path=arguments.config_path,
        check=lambda trained: check_model(trained, arguments.model_type, arguments.gating),
    )


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

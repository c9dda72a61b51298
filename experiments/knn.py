"""What the nearest neighbours of an encoder's features know of the labels: a score that trains
nothing.

    python experiments/knn.py --config_path configs/downstream/st_mem.yaml \\
        --encoder_path output/st_mem/encoder.pth
    python experiments/knn.py --config_path configs/downstream/st_mem.yaml --overlay scratch --k 10

Leaves test_metrics.csv and test_predictions.csv in <output_dir>/<exp_name> (with several folds,
in fold<k>/ there), as main_finetune.py does.  Test records ask those that it would train on.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.config.command_line import argument_parser, config_from
from util.processes.program import run_main

# as Caron et al., DINO (ICCV 2021), after Wu et al. (CVPR 2018)
NEIGHBOURS, TEMPERATURE = 20, 0.07

parser = argument_parser(__doc__, "configs/downstream/st_mem.yaml", "finetune")
parser.add_argument(
    "--k", type=int, default=NEIGHBOURS, metavar="N", help="neighbours asked (default: %(default)s)"
)
if __name__ == "__main__":
    parser.parse_args()  # --help and a wrong flag end here, before anything slow is imported

import numpy as np

from main_finetune import check_start
from util.console import print_once
from util.data.dataset import CropDataset
from util.errors import ConfigError
from util.evaluation.evaluator import Evaluator
from util.evaluation.inference import record_loader
from util.evaluation.probes import features
from util.evaluation.report import write_scores
from util.processes import collectives
from util.scoring.scores import compute_scores
from util.training.job import LabelledRecords
from util.training.setup import build_configured
from util.training.transfer import load_pretrained


def neighbours(train_x, train_y, test_x, k: int, temperature=TEMPERATURE) -> np.ndarray:
    """Mean label of the k nearest training records, weighted by exp(cosine / temperature):
    float64 (records, outputs).

    Args:
        train_x, test_x: (records, width) features; each is standardised over the training records
            first, as what all records have in common says nothing.
        train_y: (records, outputs), NaN where unknown, which does not count; an output that no
            neighbour knows has the mean of all that do.
    """
    mean, std = train_x.mean(axis=0), train_x.std(axis=0) + 1e-9
    a, b = ((x - mean) / std for x in (train_x, test_x))
    a, b = (x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9) for x in (a, b))
    cosine = b @ a.T
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(cosine, nearest, axis=1) - 1) / temperature)[..., None]
    known = ~np.isnan(train_y[nearest])
    total = (weight * known).sum(axis=1)
    found = (weight * np.where(known, train_y[nearest], 0)).sum(axis=1)
    return np.where(total > 0, found / np.where(total > 0, total, 1), np.nanmean(train_y, axis=0))


def score_neighbours(config: dict, k: int = NEIGHBOURS) -> Path:
    """Score the encoder of ``config``, pre-trained or, in mode scratch, untrained; the
    folder of the results.
    """
    check_start(config)
    records, device = LabelledRecords(config), collectives.start(config["device"])
    for note in records.notes:
        print_once(note)
    folder = Path(config["output_dir"]) / config["exp_name"]
    for fold in records.folds:
        parts = records.parts(fold)
        if not 0 < k <= len(parts["train"]):
            raise ConfigError(
                f"--k {k}: fold {fold} has {len(parts['train'])} training records to ask"
            )
        encoder = build_configured(config, len(records.classes))
        if config["mode"] != "scratch":
            print_once(load_pretrained(encoder, config["encoder_path"]))
        evaluator = Evaluator(records, parts, device)
        place = folder / f"fold{fold}" if len(records.folds) > 1 else folder
        dataset = CropDataset(records.store, records.leads, records.eval_cropping.length)
        found = {}
        for part in ("train", "test"):
            loader = record_loader(
                dataset, parts[part], records.eval_cropping, config["dataloader"]["batch_size"]
            )
            found[part] = features(
                encoder.to(device), loader, evaluator.pipeline, parts[part], device, evaluator.amp
            )
        labels = evaluator.labels["train"]
        labels = (
            np.eye(len(records.classes))[labels]
            if records.task == "multiclass"
            else labels.astype(float)
        )
        outputs = neighbours(found["train"], labels, found["test"], k)
        values = compute_scores(outputs, evaluator.labels["test"], records.scores, records.task)
        print_once(
            f"fold {fold}, {len(outputs)} test records, {k} neighbours: "
            + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        )
        place.mkdir(parents=True, exist_ok=True)
        write_scores(evaluator, place, values, outputs)
    return folder


def main(argv=None):
    """Command line; see the module's docstring."""
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
    score_neighbours(config_from(arguments), arguments.k)


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Search the class thresholds with the best Challenge score for trained weights, and score them
on the test fold.

    python experiments/threshold_search.py --model_type signal --best-type PRC --gpu 0 \\
        --weight_folder ./checkpoints/base_signal
    python experiments/threshold_search.py --weight_folder output/st_mem_finetuned \\
        --method published --fold 0

For every fold k with weights in the folder: predict its selection fold (k + 1) and its test fold
(k), search on the first, report on the second.  --method pooled searches on the selection folds
of all these weights together, except those whose selection fold is fold k; --method expected
decodes by expected score and searches nothing.  Weights trained with dataset.protocol: published
have one fold for both, and the numbers are optimistic then.  Predictions are kept in
<weight_folder>/predictions/ and used again while the weights and the store stay as they are.

Leaves in <weight_folder>/thresholds_<best type>_<method>/: thresholds_fold<k>.json for the
weights of fold k and thresholds.json, the median over folds (pooled: searched on all selection
folds), both for experiments/predict.py; scores.csv; fold<k>.png, the score against the threshold
of each class, where there are thresholds.
"""

import argparse
import hashlib
import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.processes.devices import add_gpu_flag, one_device
from util.processes.program import run_main

MODELS = {"signal": "xresnet1d50", "spectrogram": "spectrogram_se_resnet34", "ensemble": "fusion"}
METHODS = ("expected", "ascent", "published", "single", "pooled")
DEFAULT_METHOD = "expected"


def parse_arguments(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        choices=METHODS,
        default=DEFAULT_METHOD,
        help="ascent: coordinate ascent over all "
        "useful thresholds; published: one pass over 0.1 ... 0.5; single: one threshold for all "
        "classes; pooled: ascent on the selection folds of all weights but those that select on "
        "the "
        "test fold; expected: outputs of the highest expected score, no thresholds (default: "
        "%(default)s)",
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
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key of the config, e.g. --set dataset.store=DIR where the store has "
        "moved",
    )
    add_gpu_flag(parser, several=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

import numpy as np
import pandas as pd

from util.challenge import ABBREVIATIONS
from util.data.splits import ALL_FOLDS, parse_folds, selection_fold
from util.errors import CheckpointError, ConfigError
from util.evaluation.evaluator import Evaluator
from util.evaluation.threshold_figures import plot_score_curves
from util.evaluation.trained import find_weights, load_trained
from util.files import replacing
from util.scoring.scores import REPORT, compute_scores, parse_scores
from util.scoring.thresholds import (
    Thresholds,
    no_search,
    save_thresholds,
    search_ascent,
    search_published,
    search_single,
)
from util.training.job import LabelledRecords

REPORTED = parse_scores(REPORT, ABBREVIATIONS)
# name of --method: (labels, probabilities, --min_positives) -> Thresholds
SEARCHES = {
    "ascent": lambda labels, probabilities, rare: search_ascent(
        labels, probabilities, min_positives=rare
    ),
    "published": lambda labels, probabilities, rare: search_published(labels, probabilities),
    "single": lambda labels, probabilities, rare: search_single(labels, probabilities),
    "expected": lambda labels, probabilities, rare: no_search(labels, probabilities),
}
SEARCHES["pooled"] = SEARCHES["ascent"]  # on other records


@dataclass
class Part:
    """Predictions of one fold: record names, labels bool (records, 24), probabilities
    float64 (records, 24).
    """

    records: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


# ============ predictions, made once ============
def predictions(trained, place: Path, device) -> dict[str, Part]:
    """Predictions of the selection ("valid") and the test records of the weights' fold, from
    ``place`` if they were made by the same weights on the same store, else computed and written
    there.
    """
    records = LabelledRecords(trained.config)
    if records.classes != ABBREVIATIONS or records.task != "multilabel":
        raise ConfigError(
            f"{trained.path} is of other classes than the Challenge's 24, multi-label, which its "
            "score needs"
        )
    if trained.store not in (None, records.store.meta["records_crc32"]):
        print(
            f"note: the store at {records.store.path} is not the one that {trained.path.name} "
            "was "
            "trained on; where its folds differ, test records may have been trained on"
        )
    made_by = fingerprint(trained, records)
    kept = read_predictions(place, made_by)
    if kept:
        print(f"predictions: {place.name} from an earlier search")
        return kept
    parts = records.parts(trained.config["dataset"]["fold"])
    evaluator, classifier = Evaluator(records, parts, device), trained.classifier.to(device)
    names = records.store.records["record"].to_numpy(str)
    found = {}
    for name in ("valid", "test"):
        # the score judges records as a whole
        known = ~np.isnan(evaluator.labels[name]).any(axis=1)
        if not known.all():
            print(
                f"records with an unknown label, left out of the {name} part: {(~known).sum()} "
                "of "
                f"{len(known)}"
            )
        found[name] = Part(
            names[parts[name]][known],
            evaluator.labels[name][known] > 0,
            evaluator.predict(classifier, name)[0][known],
        )
    place.parent.mkdir(exist_ok=True)
    with replacing(place) as file:
        np.savez_compressed(
            file,
            made_by=made_by,
            **{
                f"{name}_{key}": value
                for name, part in found.items()
                for key, value in vars(part).items()
            },
        )
    return found


def fingerprint(trained, records) -> str:
    """What the predictions depend on: weights, model, data and how records are cropped and
    transformed.
    """
    config = trained.config
    return json.dumps(
        {
            "weights": hashlib.sha256(trained.path.read_bytes()).hexdigest(),
            "model": config["model"],
            "dataset": {k: v for k, v in config["dataset"].items() if k != "store"},
            "seed": config["seed"],
            "labels": zlib.crc32(records.labels.tobytes()),
            "splits": records.splits.checksum,
            "store": [records.store.meta["records_crc32"], records.store.meta["blocks"]],
        },
        sort_keys=True,
    )


def read_predictions(place: Path, made_by: str) -> dict[str, Part] | None:
    """The predictions in ``place``, or None where there are none of this origin."""
    try:
        with np.load(place, allow_pickle=False) as file:
            if file["made_by"].item() != made_by:
                return None
            return {
                name: Part(*(file[f"{name}_{key}"] for key in Part.__dataclass_fields__))
                for name in ("valid", "test")
            }
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        BadZipFile,
    ):  # of an interrupted or a changed file
        return None


# ============ search and report ============
def report(fold: int, select: int, valid: Part, found: Thresholds, test: Part) -> pd.DataFrame:
    """Scores of what was found on the selection fold and on the test fold, one row each."""
    return pd.DataFrame(
        [
            {
                "weights of fold": fold,
                "part": name,
                "fold": number,
                "records": len(part.labels),
                **compute_scores(
                    part.probabilities, part.labels, REPORTED, "multilabel", found.decide
                ),
            }
            for name, number, part in (("search", select, valid), ("test", fold, test))
        ]
    )


def print_table(table: pd.DataFrame) -> None:
    """Tab-separated, in the published order, four decimals."""
    print(
        table.iloc[:, 1:].to_csv(sep="\t", index=False, float_format="%.4f", na_rep="nan"), end=""
    )


def describe(found: Thresholds, labels: np.ndarray, min_positives: int) -> str:
    """How the thresholds were found, and which classes share one."""
    text = (
        f"{found.method}: {found.sweeps} sweep(s), Challenge score {found.score:.4f} on the "
        f"{len(labels)} search records"
    )
    if not found.shared:
        return text
    names = ", ".join(f"{ABBREVIATIONS[c]} ({labels[:, c].sum()})" for c in found.shared)
    return (
        f"{text}\nfewer than {min_positives} positives on the search records, so these share the "
        f"threshold {found.thresholds[found.shared[0]]:.4f}: {names}"
    )


def search_sets(method: str, searched: dict[int, tuple[int, Part]]) -> dict[int, Part]:
    """The records to search on for the weights of each fold.

    Args:
        searched: of the weights of each fold, their selection fold and their predictions of it.

    Pooled, these are the selection folds of all weights but those that select on this fold, which
    is to be tested on.
    """
    if method != "pooled":
        return {fold: part for fold, (_, part) in searched.items()}
    sets = {
        fold: [part for select, part in searched.values() if select != fold] for fold in searched
    }
    if not all(sets.values()):
        raise ConfigError(
            "--method pooled needs weights of several folds, so that some select on another fold "
            "than the one tested; take --method ascent"
        )
    return {fold: join(parts) for fold, parts in sets.items()}


def join(parts: list[Part]) -> Part:
    """Predictions of several folds as one."""
    return Part(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in Part.__dataclass_fields__
        )
    )


def for_all_folds(
    method: str, results: list[Thresholds], searched, min_positives: int
) -> Thresholds:
    """One set for weights of several folds: each class's median threshold, which an "always" or
    "never" of a single fold does not move as it would the mean; of --method pooled, searched on
    all selection folds.
    """
    if len(results) == 1:
        return results[0]
    if method == "pooled":
        every = join([part for _, part in searched.values()])
        return SEARCHES[method](every.labels, every.probabilities, min_positives)
    decoded = results[0].thresholds is None
    return Thresholds(
        None if decoded else np.median([found.thresholds for found in results], axis=0),
        float(np.mean([found.score for found in results])),
        sum(found.n_records for found in results),
        results[0].method if decoded else f"{results[0].method}, median of {len(results)} folds",
        0 if decoded else 1,
    )


def mean_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over folds of the search and the test rows, as rows of
    the same table.
    """
    return pd.DataFrame(
        [
            {"weights of fold": "all", "part": part, "fold": name, "records": mine["records"].sum()}
            | mine[REPORT].agg(name).to_dict()
            for part, mine in table.groupby("part")
            for name in ("mean", "std")
        ]
    )


# ============ command line ============
def load_weights(path: Path, fold: int, arguments):
    """The trained classifier; a CheckpointError where its fold is not its name's, its model
    not the flags'.
    """
    trained = load_trained(path, arguments.overrides, arguments.config_path)
    config = trained.config
    if arguments.config_path:
        config["dataset"]["fold"] = fold
    if config["dataset"]["fold"] != fold:
        raise CheckpointError(
            f"{path} was tested on fold {config['dataset']['fold']}, not {fold}; its records "
            "would "
            "be scored by weights that were trained on them. Give the file its own name"
        )
    gated = bool(config["model"].get("gating"))
    wanted = arguments.model_type
    if wanted and (
        config["model_name"] != MODELS[wanted] or wanted == "ensemble" and gated != arguments.gating
    ):
        raise CheckpointError(
            f"{path} is of {config['model_name']}{' with a gate' if gated else ''}; give the "
            f"--model_type{' and --gating' if gated else ''} of these weights, or neither"
        )
    return trained


def main(argv=None):
    """Command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    device, folder, method = (
        one_device(arguments.gpu),
        Path(arguments.weight_folder),
        arguments.method,
    )
    wanted = None if arguments.fold in (None, [ALL_FOLDS]) else parse_folds(arguments.fold)
    searched, tested = {}, {}
    for fold, path in find_weights(folder, arguments.best_type, wanted).items():
        print(f"==== fold {fold}: {path.name} ====")
        trained = load_weights(path, fold, arguments)
        protocol = trained.config["dataset"]["protocol"]
        published = protocol == "published"
        if method == "pooled" and protocol not in ("nested", "published"):
            raise ConfigError(
                "--method pooled takes the selection records of other weights, which under "
                f"dataset.protocol {protocol} may hold tested ones; take --method ascent"
            )
        select = selection_fold(protocol, fold)
        if published:
            print(
                "note: protocol 'published' searches and reports on the same fold; its numbers "
                "are "
                "optimistic"
                + (
                    ""
                    if method != "pooled"
                    else ", though pooled thresholds come from the other folds"
                )
            )
        parts = predictions(trained, folder / "predictions" / f"{path.stem}_fold{fold}.npz", device)
        searched[fold], tested[fold] = (select, parts["valid"]), parts["test"]

    results = folder / f"thresholds_{arguments.best_type}_{method}"
    found, tables = [], []
    for fold, part in search_sets(method, searched).items():
        best = SEARCHES[method](part.labels, part.probabilities, arguments.min_positives)
        found.append(best)
        print(f"==== fold {fold} ====\n{describe(best, part.labels, arguments.min_positives)}")
        tables.append(report(fold, *searched[fold], best, tested[fold]))
        print_table(tables[-1])
        results.mkdir(exist_ok=True)
        save_thresholds(results / f"thresholds_fold{fold}.json", best)
        if best.thresholds is not None:
            plot_score_curves(
                part.labels,
                part.probabilities,
                best,
                results / f"fold{fold}.png",
                f"{folder.name}, fold {fold}: {best.method}, Challenge score on its search "
                "records "
                f"{best.score:.3f}, {best.n_records} records",
            )
    save_thresholds(
        results / "thresholds.json", for_all_folds(method, found, searched, arguments.min_positives)
    )
    table = pd.concat(tables)
    if len(found) > 1:
        print(f"==== {len(found)} folds ====")
        means = mean_rows(table)
        print_table(means)
        table = pd.concat([table, means])
    table.to_csv(results / "scores.csv", index=False, float_format="%.6g")
    print(
        "published headings: "
        + ", ".join(
            f"{score.heading} is {name}"
            for name, score in REPORTED.items()
            if score.heading != name
        )
    )
    print(f"what was found, and its scores: {results}")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))

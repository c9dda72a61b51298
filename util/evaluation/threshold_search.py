"""Class thresholds for trained weights: searched on their selection folds, scored on their test
folds.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch

from util.challenge import ABBREVIATIONS
from util.config.fields import to_mapping
from util.console import begin_job, note
from util.data.splits import parse_folds, selection_fold
from util.errors import CheckpointError, ConfigError
from util.evaluation.evaluator import Evaluator
from util.evaluation.threshold_figures import plot_score_curves
from util.evaluation.threshold_rules import (
    MEANS,
    describe_rule,
    report_rule,
    search_rule,
    table_of,
)
from util.evaluation.trained import Trained, find_weights, load_trained
from util.files import replacing, write_frame
from util.jobs.job import Fold, LabelledJob
from util.scoring.operating_points import wanted_sensitivity
from util.scoring.predictions import Predictions
from util.scoring.scores import REPORT, compute_scores, parse_scores
from util.scoring.thresholds import (
    Thresholds,
    no_search,
    save_thresholds,
    search_ascent,
    search_published,
    search_single,
)
from util.training.resolved import different_job

REPORTED = parse_scores(REPORT, ABBREVIATIONS)
# name of --method: (labels, probabilities, --min_positives) -> Thresholds
SEARCHES: dict[str, Callable[..., Thresholds]] = {
    "ascent": lambda labels, probabilities, rare: search_ascent(
        labels, probabilities, min_positives=rare
    ),
    "published": lambda labels, probabilities, rare: search_published(labels, probabilities),
    "single": lambda labels, probabilities, rare: search_single(labels, probabilities),
    "expected": lambda labels, probabilities, rare: no_search(labels, probabilities),
}
SEARCHES["pooled"] = SEARCHES["ascent"]  # on other records


# ============ predictions, made once ============
def predictions_of(
    trained: Trained, job: LabelledJob, place: Path, device: torch.device
) -> dict[str, Predictions]:
    """Return the predictions of the selection ("valid") and the test records of the weights'
    fold, from ``place`` if they were made by the same weights on the same store, else computed
    and written there.
    """
    if trained.store not in (None, job.store.meta["records_crc32"]):
        note(
            f"note: the store at {job.store.path} is not the one that {trained.path.name} was "
            "trained on; where its folds differ, test records may have been trained on"
        )
    fold = job.fold(tested_fold(trained))
    made_by = fingerprint(trained, fold)
    kept = read_predictions(place, made_by)
    if kept:
        note(f"predictions: {place.name} from an earlier search")
        return kept
    evaluator, classifier = Evaluator(fold, device), trained.classifier.to(device)
    predictions = {part: evaluator.predict(classifier, part) for part in ("valid", "test")}
    place.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {"made_by": made_by}
    for part, values in predictions.items():
        arrays |= values.arrays(part)
    with replacing(place) as file:
        np.savez_compressed(file, **arrays)
    return predictions


def check_classes(trained: Trained, job: LabelledJob, method: str) -> None:
    """Raise a ConfigError where a method cannot choose thresholds of the weights' classes."""
    if is_rule(method) and job.task != "multilabel":
        raise ConfigError(
            f"{trained.path} is of classes that exclude each other or of numbers ({job.task}), "
            "which need no thresholds"
        )
    if not is_rule(method) and (job.classes != ABBREVIATIONS or job.task != "multilabel"):
        cure = "; give --method f1, youden or sensitivity=S" * (job.task == "multilabel")
        raise ConfigError(
            f"{trained.path} is of other classes than the Challenge's 24, multi-label, which its "
            f"score needs{cure}"
        )


def is_rule(method: str) -> bool:
    """Return whether a method looks at each class by itself, whatever the classes are.

    Raises:
        ConfigError: there is no such method.
    """
    if method in SEARCHES:
        return False
    wanted_sensitivity(method)
    return True


def wholly_known(predictions: dict[str, Predictions]) -> dict[str, Predictions]:
    """Return the records whose labels are all known, as the Challenge score judges whole ones."""
    kept = {}
    for part, each in predictions.items():
        known = ~np.isnan(each.labels).any(axis=1)
        if not known.all():
            note(
                f"records with an unknown label, left out of the {part} part: {(~known).sum()} "
                f"of {len(known)}"
            )
        kept[part] = each.where(known)
    return kept


def tested_fold(trained: Trained) -> int:
    """Return the one fold that weights were tested on, as their config says."""
    (fold,) = parse_folds(trained.config.dataset.fold)
    return fold


def fingerprint(trained: Trained, fold: Fold) -> str:
    """Return what the predictions depend on: weights, model, data and how records are cropped and
    transformed.
    """
    config, store = trained.config, fold.job.store
    dataset = to_mapping(config.dataset)
    del dataset["store"]
    return json.dumps(
        {
            "weights": hashlib.sha256(trained.path.read_bytes()).hexdigest(),
            "model": config.model,
            "dataset": dataset,
            "seed": config.seed,
            "labels": zlib.crc32(fold.labels.tobytes()),
            "splits": fold.job.splits.checksum,
            "store": [store.meta["records_crc32"], store.meta["blocks"]],
        },
        sort_keys=True,
    )


def read_predictions(place: Path, made_by: str) -> dict[str, Predictions] | None:
    """Return the predictions in ``place``, or None where there are none of this origin."""
    try:
        with np.load(place, allow_pickle=False) as file:
            if file["made_by"].item() != made_by:
                return None
            return {part: Predictions.from_arrays(dict(file), part) for part in ("valid", "test")}
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None  # an interrupted or a changed file


# ============ search and report ============
def report(
    fold: int, select: int | str, valid: Predictions, found: Thresholds, test: Predictions
) -> pd.DataFrame:
    """Return the scores of thresholds: a row for the selection fold and one for the test fold."""
    rows = []
    for name, number, part in (("search", select, valid), ("test", fold, test)):
        scores = compute_scores(part.outputs, part.labels > 0, REPORTED, "multilabel", found.decide)
        place = {"weights of fold": fold, "part": name, "fold": number, "records": len(part)}
        rows.append(place | scores)
    return pd.DataFrame(rows)


def note_table(table: pd.DataFrame) -> None:
    """Say a table tab-separated, in the published order, with four decimals."""
    text = table.iloc[:, 1:].to_csv(sep="\t", index=False, float_format="%.4f", na_rep="nan")
    note(text.rstrip("\n"))


def describe(found: Thresholds, labels: np.ndarray, min_positives: int) -> str:
    """Say how the thresholds were found, and which classes share one."""
    text = (
        f"{found.method}: {found.sweeps} sweep(s), Challenge score {found.score:.4f} on the "
        f"{len(labels)} search records"
    )
    if not found.shared:
        return text
    assert found.thresholds is not None, "they share one"
    names = ", ".join(f"{ABBREVIATIONS[c]} ({labels[:, c].sum()})" for c in found.shared)
    return (
        f"{text}\nfewer than {min_positives} positives on the search records, so these share the "
        f"threshold {found.thresholds[found.shared[0]]:.4f}: {names}"
    )


def search_sets(
    method: str, searched: dict[int, tuple[int | str, Predictions]]
) -> dict[int, Predictions]:
    """Return the records to search on for the weights of each fold.

    Args:
        method: pooled: the selection folds of all weights but those that select on this fold,
            which is to be tested on; else the weights' own selection fold.
        searched: of the weights of each fold, their selection fold and their predictions of it.
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
    return {fold: Predictions.join(parts) for fold, parts in sets.items()}


def for_all_folds(
    method: str,
    results: list[Thresholds],
    searched: dict[int, tuple[int | str, Predictions]],
    min_positives: int,
) -> Thresholds:
    """Return one set for weights of several folds: each class's median threshold, which an
    "always" or "never" of a single fold does not move as it would the mean; of --method pooled,
    searched on all selection folds.
    """
    if len(results) == 1:
        return results[0]
    if method == "pooled":
        every = Predictions.join([part for _, part in searched.values()])
        return SEARCHES[method](every.labels > 0, every.outputs, min_positives)
    score = float(np.mean([result.score for result in results]))
    first = replace(results[0], score=score, n_records=sum(each.n_records for each in results))
    if first.thresholds is None:  # a decoder
        return first
    median = np.median([result.thresholds for result in results], axis=0)
    method = f"{first.method}, median of {len(results)} folds"
    return replace(first, thresholds=median, method=method, sweeps=1, shared=())


def mean_rows(table: pd.DataFrame, columns: list[str] = REPORT) -> pd.DataFrame:
    """Return mean and standard deviation over folds of the search and the test rows, as rows of
    the same table.
    """
    return pd.DataFrame(
        [
            {"weights of fold": "all", "part": part, "fold": name, "records": rows["records"].sum()}
            | rows[columns].agg(name).to_dict()
            for part, rows in table.groupby("part")
            for name in ("mean", "std")
        ]
    )


# ============ a folder of weights ============
def load_weights(
    path: Path, fold: int, overrides: list[str], config_path: str | None = None
) -> Trained:
    """Rebuild the classifier that was tested on a fold.

    Raises:
        CheckpointError: it was tested on another one.
    """
    trained = load_trained(path, overrides, config_path)
    if config_path:
        data = replace(trained.config.dataset, fold=fold)
        trained = replace(trained, config=replace(trained.config, dataset=data))
    if trained.config.dataset.fold != fold:  # of a list, or "all", it is not one either
        raise CheckpointError(
            f"{path} was tested on fold {trained.config.dataset.fold}, not {fold}; its records "
            "would be scored by weights that were trained on them. Give the file its own name"
        )
    return trained


def check_same_job(first: Trained, other: Trained) -> None:
    """Refuse weights of two folds that are not of one job.

    Raises:
        ConfigError: their configs differ; the message names the keys.
    """
    names: list[str] = []
    if first.stored and other.stored:
        names = different_job(first.stored, other.stored, first.config, str(first.path))
    encoders = [trained.stored.get("encoder_path") for trained in (first, other)]
    apart = ["dataset.fold", "dataset.store"]  # the store may have moved
    if "encoder_path" in names and all(encoders):  # pre-training leaves out the tested fold
        apart.append("encoder_path")
        note(f"note: {first.path.name} and {other.path.name} start from different encoders")
    names = [name for name in names if name not in apart]
    if None not in (first.store, other.store) and first.store != other.store:
        names.append("the records of dataset.store")
    if names:
        raise ConfigError(
            f"{first.path} and {other.path} are of different jobs, which differ in "
            f"{', '.join(names)}; a mean over them would be of neither. Put them into different "
            "folders, or choose weights of one job with --fold"
        )


def search_folder(
    folder: str | Path,
    method: str,
    device: torch.device,
    *,
    best: str = "PRC",
    folds: list[int] | None = None,
    min_positives: int = 5,
    overrides: list[str] | None = None,
    config_path: str | None = None,
    check: Callable[[Trained], None] = lambda trained: None,
) -> pd.DataFrame:
    """Search thresholds for all weights in a folder, leave them in
    <folder>/thresholds_<best>_<method>/ and return the table of scores.

    Args:
        folder: of the weights.
        method: a key of ``SEARCHES``, or of each class by itself f1, youden or sensitivity=S.
        device: for predictions.
        best: ROC or PRC, the metric by which the weights were chosen.
        folds: those wanted; None: all that are there.
        min_positives: classes with fewer positive records in the search share one threshold.
        overrides: ``--set`` texts for the weights' config.
        config_path: a config in place of the weights' own.
        check: raises where weights are not those that were asked for.
    """
    begin_job()
    folder = Path(folder)

    def load(fold: int, path: Path) -> Trained:
        trained = load_weights(path, fold, overrides or [], config_path)
        check(trained)
        return trained

    weights = find_weights(folder, best, folds)
    kept = folder / "predictions"
    searched, tested, codes = _predict_all(weights, load, method, kept, device)

    parts = search_sets(method, searched)
    results = folder / f"thresholds_{best}_{method}"
    results.mkdir(exist_ok=True)
    found, tables = {}, []
    for fold, part in parts.items():
        note(f"==== fold {fold} ====")
        if is_rule(method):
            found[fold] = search_rule(method, part, codes)
            note(describe_rule(found[fold], part))
            tables.append(report_rule(fold, *searched[fold], found[fold], tested[fold]))
            by_class = table_of(tested[fold], found[fold])
            write_frame(results / f"classes_fold{fold}.csv", by_class, float_format="%.6g")
        else:
            found[fold] = SEARCHES[method](part.labels > 0, part.outputs, min_positives)
            note(describe(found[fold], part.labels > 0, min_positives))
            tables.append(report(fold, *searched[fold], found[fold], tested[fold]))
            title = f"{folder.name}, fold {fold}"
            _plot_search(found[fold], part, results / f"fold{fold}.png", title)
        note_table(tables[-1])
        save_thresholds(results / f"thresholds_fold{fold}.json", found[fold])
    for_all = for_all_folds(method, list(found.values()), searched, min_positives)
    save_thresholds(results / "thresholds.json", for_all)
    return _note_results(pd.concat(tables), method, results)


def _predict_all(
    weights: dict[int, Path],
    load: Callable[[int, Path], Trained],
    method: str,
    kept: Path,
    device: torch.device,
) -> tuple[dict[int, tuple[int | str, Predictions]], dict[int, Predictions], tuple[str, ...]]:
    """The predictions of all folds' weights, (selection fold, its records) and test records, and
    the codes of the classes.  One classifier at a time is in memory; predictions are kept in
    the folder ``kept``.
    """
    searched, tested = {}, {}
    first: Trained | None = None
    job: LabelledJob | None = None
    for fold, path in weights.items():
        note(f"==== fold {fold}: {path.name} ====")
        trained = load(fold, path)
        first = first or trained
        check_same_job(first, trained)
        protocol = trained.config.dataset.protocol
        _check_protocol(method, protocol)
        if job is None or job.config.dataset.store != trained.config.dataset.store:
            job = LabelledJob(trained.config)  # once for all folds, so its notes are said once
        check_classes(trained, job, method)
        parts = predictions_of(trained, job, kept / f"{path.stem}_fold{fold}.npz", device)
        parts = parts if is_rule(method) else wholly_known(parts)
        searched[fold] = (selection_fold(protocol, fold), parts["valid"])
        tested[fold] = parts["test"]
    assert first is not None, "find_weights found some"
    return searched, tested, first.codes


def _check_protocol(method: str, protocol: str) -> None:
    """Refuse a search on records that are tested on, or say that it is one."""
    if method == "pooled" and protocol not in ("nested", "published"):
        raise ConfigError(
            "--method pooled takes the selection records of other weights, which under "
            f"dataset.protocol {protocol} may hold tested ones; take --method ascent"
        )
    if protocol == "published":
        pooled = ", though pooled thresholds come from the other folds" * (method == "pooled")
        note(
            "note: protocol 'published' searches and reports on the same fold; its numbers "
            f"are optimistic{pooled}"
        )


def _plot_search(found: Thresholds, part: Predictions, path: Path, title: str) -> None:
    """Draw the Challenge score against each class's threshold; a decoder has none."""
    if found.thresholds is None:
        return
    text = (
        f"{title}: {found.method}, Challenge score on its search records {found.score:.3f}, "
        f"{found.n_records} records"
    )
    plot_score_curves(part.labels > 0, part.outputs, found, path, text)


def _note_results(table: pd.DataFrame, method: str, results: Path) -> pd.DataFrame:
    """Write and say the scores of all folds, and return them with their mean and deviation."""
    by_rule, folds = is_rule(method), table["weights of fold"].nunique()
    if folds > 1:
        note(f"==== {folds} folds ====")
        means = mean_rows(table, MEANS if by_rule else REPORT)
        note_table(means)
        table = pd.concat([table, means])
    write_frame(results / "scores.csv", table, float_format="%.6g")
    if not by_rule:
        headings = [f"{s.heading} is {name}" for name, s in REPORTED.items() if s.heading != name]
        note(f"published headings: {', '.join(headings)}")
    note(f"thresholds and their scores: {results}")
    return table

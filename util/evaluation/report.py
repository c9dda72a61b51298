"""The results of a fold: best weights, test scores and test predictions, in memory and as files."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd

from util.console import keep_in, note
from util.contract.encoder import Encoder
from util.data.store import RecordStore
from util.errors import CheckpointError, ConfigError
from util.evaluation.evaluator import Evaluator, gate_table
from util.files import write_frame
from util.jobs.job import SupervisedTask
from util.processes import collectives
from util.scoring.calibration import kept_calibration
from util.scoring.intervals import Predicted, estimate
from util.scoring.operating_points import kept_thresholds
from util.scoring.predictions import Predictions
from util.scoring.scores import compute_scores, lower_is_better
from util.training.engine import Training
from util.weights import checkpoint
from util.weights.transfer import save_encoder

PUBLISHED_BEST = {"AUROC": "ROC", "AUPRC": "PRC"}  # fold0_bestROC.pth, as published
DIGITS = 4  # of scores in CSV files
SELECTION = "selection_predictions.npz"  # by the tested weights


@dataclass(frozen=True)
class FoldFiles:
    """Where the files of one fold go: into ``folder``, but weights beside it if ``published``."""

    folder: Path
    published: bool = False

    def best(self, metric: str) -> Path:
        """Return the path of the best weights by this metric."""
        if self.published and metric in PUBLISHED_BEST:
            return self.folder.with_name(f"{self.folder.name}_best{PUBLISHED_BEST[metric]}.pth")
        return self.folder / f"best-{metric}.pth"


@dataclass(frozen=True)
class FoldResult:
    """The test results of a fold.

    Attributes:
        fold: its number.
        folder: of its files.
        scores: of the test records, by name.
        intervals: <score>_low and <score>_high, where the config asks for them.
        selection: scores of the tested weights on the selection fold.
        predictions: of the test records.
        overlap: how many of these the first weights had seen with their labels.
    """

    fold: int
    folder: Path
    scores: dict[str, float]
    intervals: dict[str, float]
    selection: dict[str, float]
    predictions: Predictions
    overlap: int = 0


# ============ selection ============
def save_best(
    training: Training,
    values: dict[str, float],
    files: FoldFiles,
    chosen: Predictions | None = None,
) -> None:
    """Write best-<metric>.pth for every metric that is better than ever before.

    NaN, where a metric is not defined on these records, is the worst value; the first epoch is
    always written.

    Args:
        training: that has reached these weights.
        values: scores of the selection records.
        files: where they go.
        chosen: predictions of the selection records, for thresholds that the weights keep.
    """
    about: dict[str, Any] = {}
    task = cast(SupervisedTask, training.model)
    for name, value in values.items():
        if not improved(name, value, training.best.get(name)):
            continue
        training.best[name] = value
        if collectives.is_main():
            store, done = training.dataset.store, training.epoch - 1
            about = about or training.about | with_thresholds(chosen)
            save_weights(task, training.resolved, done, values, store, files.best(name), about)


def forget_lost(training: Training, files: FoldFiles) -> None:
    """Forget, in a resumed run, the best scores whose weights best-<metric>.pth does not hold: the
    checkpoint is of another folder, or epochs after it, which are trained anew, left others there.

    Else these would be tested wherever no new epoch is as good as one before the checkpoint.
    """
    best = training.best
    lost = collectives.on_main(
        lambda: [name for name, value in best.items() if not _holds(files.best(name), name, value)]
    )
    for name in lost:
        del best[name]
    if lost:
        note(
            f"note: {', '.join(files.best(name).name for name in lost)} in {files.folder} are not "
            "the best weights of the epochs before the checkpoint: the best are chosen from the "
            "epochs that follow"
        )


def _holds(path: Path, name: str, value: float) -> bool:
    """Whether a file holds weights that reached this score."""
    try:
        there = checkpoint.load(path)["metrics"].get(name)
    except (CheckpointError, KeyError, AttributeError):
        return False
    return there is not None and (there == value or (math.isnan(there) and math.isnan(value)))


def with_thresholds(chosen: Predictions | None) -> dict[str, Any]:
    """Return what weights say of the thresholds and the calibration of their selection records."""
    kept = kept_thresholds(chosen) if chosen else {}
    if not chosen:
        return {}
    about = {"calibration": kept_calibration(chosen)}
    if not kept:
        return about
    positives = (chosen.labels == 1).sum(axis=0).tolist()
    return {**about, "thresholds": kept, "positives": positives}


def save_weights(
    task: SupervisedTask,
    resolved: dict,
    epoch: int,
    values: dict[str, float],
    store: RecordStore,
    path: Path,
    about: dict[str, Any],
) -> None:
    """Write a classifier's weights, with all that is needed to use them.

    Args:
        task: the classifier and what its outputs mean.
        resolved: the config.
        epoch: in which these weights were reached.
        values: scores of the selection records.
        store: trained on; a checksum of its records is kept.
        path: of the file.
        about: more that it says of the training.
    """
    content = checkpoint.content(
        task.classifier.state_dict(),
        resolved,
        epoch,
        metrics=values,
        store=store.meta["records_crc32"],
        labels=task.criterion.about,
        **about,
    )
    checkpoint.save(content, path)


def improved(name: str, value: float, best: float | None) -> bool:
    """Return whether a score is better than the best so far; NaN is the worst."""
    if best is None or math.isnan(best):
        return best is None or not math.isnan(value)
    return value < best if lower_is_better(name) else value > best


# ============ test ============
def report_test(
    evaluator: Evaluator, classifier: Encoder, files: FoldFiles, resolved: dict
) -> FoldResult:
    """Load the weights that test.target_metric names, score them on the test records, and write
    test_metrics.csv, the predictions, encoder.pth and, where there is a gate, test_gate.csv.

    Args:
        evaluator: of the fold.
        classifier: any weights of it; the selected ones are loaded into it.
        files: where these are, and where the results go.
        resolved: the config, for encoder.pth.
    """
    collectives.barrier()
    chosen = files.best(evaluator.job.config.test.target_metric)
    best = collectives.on_main(lambda: checkpoint.load(chosen))
    _check_chosen(best["metrics"], evaluator.job.config.test.target_metric)
    classifier.load_state_dict(best["model"])
    predictions = evaluator.predict(classifier, "test")
    selection = evaluator.predict(classifier, "valid")
    values = evaluator.scores(predictions)
    note(
        f"test ({chosen.name} of epoch {best['epoch'] + 1}, {len(predictions)} records): "
        + in_words(values)
    )

    def write() -> dict[str, float]:
        limits = write_scores(evaluator, files.folder, values, predictions)
        selection.save(files.folder / SELECTION)
        save_encoder(
            classifier,
            files.folder / "encoder.pth",
            epoch=best["epoch"],
            config=resolved,
            leads=evaluator.job.leads,
            **evaluator.fold.about,
        )
        return limits

    return FoldResult(
        fold=evaluator.fold.number,
        folder=files.folder,
        scores=values,
        intervals=collectives.on_main(write),
        selection=best["metrics"],
        predictions=predictions,
        overlap=evaluator.fold.overlap,
    )


def _check_chosen(values: dict[str, float], target: str) -> None:
    """Raise a ConfigError where the best value of test.target_metric is NaN: no epoch had one."""
    if math.isnan(values.get(target, 0.0)):
        defined = [name for name, value in values.items() if not math.isnan(value)]
        raise ConfigError(
            f"test.target_metric: {target} was NaN on the selection records in every epoch, so no "
            f"weights are the best by it; choose {', '.join(defined) or 'another fold'}"
        )


def write_scores(
    evaluator: Evaluator,
    folder: str | os.PathLike,
    values: dict[str, float],
    predictions: Predictions,
) -> dict[str, float]:
    """Write test_metrics.csv, test_predictions.csv and .npz and, where there is a gate,
    test_gate.csv; return the intervals that test.bootstrap asks for.

    Where the first weights had seen labels of test records, the column label_overlap counts these.
    """
    folder, limits = Path(folder), intervals(evaluator, predictions)
    overlap = evaluator.fold.overlap
    table = {
        "records": len(predictions),
        **({"label_overlap": overlap} if overlap else {}),
        **rounded(values),
        **limits,
        **by_column(evaluator, predictions),
    }
    write_frame(folder / "test_metrics.csv", pd.DataFrame([table]))
    predictions.write_csv(folder / "test_predictions.csv")
    predictions.save(folder / "test_predictions.npz")
    if predictions.gate is not None:
        gates = gate_table(predictions)
        write_frame(folder / "test_gate.csv", gates, float_format="%.4f")
        note(
            f"gate: mean weight of the signal branch {gates['signal'][0]:.3f}, by class in "
            "test_gate.csv"
        )
    return limits


def intervals(evaluator: Evaluator, predictions: Predictions) -> dict[str, float]:
    """Return <metric>_low and <metric>_high, from test.bootstrap resamples; {} if that is 0."""
    job = evaluator.job
    limits: dict[str, float] = {}
    resamples, seed = job.config.test.bootstrap, job.config.seed
    test = Predicted(predictions.labels, predictions.outputs, predictions.patients)
    for name, score in job.scores.items() if resamples else ():
        interval = estimate(name, score, [test], job.task, n=resamples, seed=seed)
        limits |= rounded({f"{name}_low": interval.low, f"{name}_high": interval.high})
        note(f"{name}: 95 % interval {interval.low:.4f} to {interval.high:.4f}")
    return limits


def by_column(evaluator: Evaluator, predictions: Predictions) -> dict[str, float]:
    """Return <score>_<column> where a regression has several columns, as their units may differ."""
    job = evaluator.job
    scores: dict[str, float] = {}
    several = job.task == "regression" and len(job.classes) > 1
    for c, column in enumerate(job.classes if several else ()):
        one = slice(c, c + 1)
        values = compute_scores(
            predictions.outputs[:, one], predictions.labels[:, one], job.scores, job.task
        )
        scores |= rounded({f"{name}_{column}": value for name, value in values.items()})
        note(f"{column}: {in_words(values)}")
    return scores


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return scores with as many digits as CSV files have."""
    return {name: round(value, DIGITS) for name, value in values.items()}


def in_words(values: dict[str, float]) -> str:
    """Return scores as a phrase."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def summarise(results: list[FoldResult], folder: Path, beside: Sequence[int] = ()) -> None:
    """Write summary.csv, the scores of all folds, their mean and their standard deviation, and say
    them, in the folder's console.txt as well.

    Args:
        results: of this run.
        folder: of all folds.
        beside: further folds of the same job, whose results an earlier run left in ``folder``.
    """
    keep_in(folder)
    rows = [{"fold": result.fold, **result.scores} for result in results]
    overlap = {result.fold: result.overlap for result in results}
    for fold in beside:
        theirs = pd.read_csv(folder / f"fold{fold}" / "test_metrics.csv").iloc[0]
        rows.append({"fold": fold} | {name: theirs.get(name) for name in results[0].scores})
        overlap[fold] = int(theirs.get("label_overlap", 0))
    if beside:
        note(f"with fold {', '.join(map(str, beside))}, which an earlier run of this job left:")
    table = pd.DataFrame(rows).set_index("fold").sort_index()
    summary = pd.concat([table, table.agg(["mean", "std"])]).round(DIGITS)
    if any(overlap.values()):
        summary["label_overlap"] = pd.Series(overlap)
    summary.index.name = "fold"
    write_frame(folder / "summary.csv", summary.reset_index())
    note(summary.to_string())
    missing = without_value(table)
    if missing:
        note(f"note: {missing}")


def without_value(table: pd.DataFrame) -> str:
    """Return which scores have no value on some folds, so that their mean is of fewer, in words.

    Args:
        table: a row for each fold, a column for each score.
    """
    folds = {str(name): table.index[table[name].isna()] for name in table}
    said = [
        f"{name} has no value on fold {', '.join(str(k).removeprefix('fold ') for k in lacking)}"
        for name, lacking in folds.items()
        if 0 < len(lacking) < len(table)
    ]
    return f"{'; '.join(said)}: means and deviations are of the other folds" if said else ""

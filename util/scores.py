"""Scores of multi-label classifiers: the Challenge score, accuracy, F1, F2, G2, AUROC, AUPRC and bootstrap intervals.

Labels L and outputs O are boolean (records, classes), scores S are real numbers of the same shape: a higher one means
that the class is likelier.  Definitions: Perez Alday et al., Physiological Measurement 41 (2020) 124003.  Everything
but the Challenge score works for any set of classes.  A class without a defined value is NaN where values are given
per class, and is left out of the macro mean.
"""
import numpy as np

from util.challenge import NORMAL, WEIGHTS
from util.errors import ECGError

BLOCK = 1024  # records at a time: temporary arrays stay in the cache, which is three times faster than all at once


def challenge_score(labels, outputs, weights=WEIGHTS) -> float:
    """The Challenge 2020 score: 1 for perfect outputs, 0 for "sinus rhythm" as the answer to every record.

    A = sum over records of outer(L_i, O_i) / max(|L_i or O_i|, 1) and s(O) = sum(W * A); the score is
    (s(O) - s(inactive)) / (s(L) - s(inactive)), or 0 where that denominator is 0.

    Args:
        labels, outputs: bool (records, 24).
        weights: (24, 24), credit for each output class (column) given each true class (row).
    """
    observed, inactive, perfect = challenge_sums(labels, outputs, weights)
    return (observed - inactive) / (perfect - inactive) if perfect != inactive else 0.0


def challenge_sums(labels, outputs, weights=WEIGHTS) -> tuple[float, float, float]:
    """s(O), s(inactive) and s(L), of which ``challenge_score`` is made; arguments as there."""
    labels, outputs = _binary(labels, outputs)
    if labels.shape[1] != len(weights):
        raise ValueError(f"the Challenge score needs {len(weights)} classes, the labels have {labels.shape[1]}")
    sums = np.zeros(3)
    for start in range(0, len(labels), BLOCK):
        rows = slice(start, start + BLOCK)
        sums += _challenge_sums(labels[rows], outputs[rows], weights)
    return tuple(sums.tolist())


def _challenge_sums(labels, outputs, weights):
    # C order, so that the rounding, too, is the same however the arrays lie in memory
    true, answer = labels.astype(float, order="C"), outputs.astype(float, order="C")
    credit = true @ weights  # (records, classes): of each output, before normalisation
    size = row_sum(labels)
    observed = np.vecdot(credit, answer) / np.maximum(row_sum(labels | outputs), 1)
    inactive = credit[:, NORMAL] / (size + ~labels[:, NORMAL])  # this union holds sinus rhythm at least
    perfect = np.vecdot(credit, true) / np.maximum(size, 1)
    return observed.sum(), inactive.sum(), perfect.sum()


def accuracy(labels, outputs) -> float:
    """Share of records whose outputs are right in every class."""
    labels, outputs = _binary(labels, outputs)
    return float(np.mean(~np.any(labels != outputs, axis=1)))


def f1(labels, outputs) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each class, (classes,); NaN for a class with neither a label nor an output."""
    labels, outputs = _binary(labels, outputs)
    true, false, missed = _confusion(labels, outputs, np.ones(len(labels)))
    return _ratio(2 * true, 2 * true + false + missed)


def f2_g2(labels, outputs) -> tuple[float, float]:
    """The Challenge's F and G measures of beta 2, means over classes.

    F = 5 TP / (5 TP + FP + 4 FN) and G = TP / (TP + FP + 2 FN), where each record counts 1 / max(|L_i|, 1).
    """
    labels, outputs = _binary(labels, outputs)
    true, false, missed = _confusion(labels, outputs, 1 / np.maximum(row_sum(labels), 1))
    return macro(_ratio(5 * true, 5 * true + false + 4 * missed)), macro(_ratio(true, true + false + 2 * missed))


def auroc(labels, scores) -> np.ndarray:
    """Area under the ROC curve of each class, (classes,): trapezoids between distinct scores.
    NaN for a class without positives or without negatives."""
    return _each_class(_auroc, labels, scores)


def auprc(labels, scores) -> np.ndarray:
    """Area under the precision-recall curve of each class, (classes,), as a step function over distinct scores:
    sum of (recall_k - recall_{k-1}) * precision_k.  NaN for a class without positives."""
    return _each_class(_auprc, labels, scores)


def _each_class(area, labels, scores):
    """``area`` of each class's cumulative counts; class by class since one column fits into the processor's cache."""
    labels, scores = check_scores(labels, scores)
    columns = zip(np.ascontiguousarray(labels.T), np.ascontiguousarray(scores.T))
    return np.array([area(*_cumulative_counts(*column)) for column in columns])


def _cumulative_counts(labels, scores):
    """How many positives and how many records score at least as high as each distinct score, from the highest down."""
    order = np.argsort(scores)[::-1]
    found, scores = np.cumsum(labels[order]), scores[order]
    ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    return found[ends], ends + 1


def _auroc(found, passed):
    false = passed - found
    n_pairs = found[-1] * false[-1]
    steps = np.diff(found, prepend=0)
    return np.sum(np.diff(false, prepend=0) * (found - steps / 2)) / n_pairs if n_pairs else np.nan


def _auprc(found, passed):
    return np.sum(np.diff(found, prepend=0) * (found / passed)) / found[-1] if found[-1] else np.nan


def macro(values) -> float:
    """Mean over the classes whose value is defined; NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


# name in reports: (function of labels and predictions, which predictions it takes)
SCORES = {
    "auroc": (lambda labels, scores: macro(auroc(labels, scores)), "scores"),
    "auprc": (lambda labels, scores: macro(auprc(labels, scores)), "scores"),
    "accuracy": (accuracy, "outputs"),
    "macro_f1": (lambda labels, outputs: macro(f1(labels, outputs)), "outputs"),
    "f2": (lambda labels, outputs: f2_g2(labels, outputs)[0], "outputs"),
    "g2": (lambda labels, outputs: f2_g2(labels, outputs)[1], "outputs"),
    "challenge_score": (challenge_score, "outputs"),
}


def all_scores(labels, scores, outputs) -> dict[str, float]:
    """Every score of a report, in the published order, and ``n_records``.

    Args:
        labels, outputs: bool (records, classes).
        scores: float (records, classes).

    Returns:
        auroc, auprc, macro_f1, f2, g2: macro means; accuracy; challenge_score, only where the classes are the
        Challenge's 24; n_records.
    """
    predictions = {"scores": scores, "outputs": outputs}
    report = {name: SCORES[name][0](labels, predictions[SCORES[name][1]]) for name in _names(labels)}
    return report | {"n_records": len(labels)}


def all_intervals(labels, scores, outputs, n=1000, level=0.95, seed=0) -> dict[str, tuple[float, float]]:
    """The bootstrap interval of every score that ``all_scores`` reports: {name: (low, high)}."""
    predictions = {"scores": scores, "outputs": outputs}
    return {name: bootstrap_interval(SCORES[name][0], labels, predictions[SCORES[name][1]], n, level, seed)
            for name in _names(labels)}


def bootstrap_interval(function, labels, predictions, n=1000, level=0.95, seed=0) -> tuple[float, float]:
    """Percentile bootstrap interval over records (Efron and Tibshirani 1993, chapter 13).

    Args:
        function: score of (labels, predictions), such as ``challenge_score``.
        labels, predictions: (records, classes), drawn together, record by record, with replacement.
        n: number of resamples.
        level: share of the resampled scores inside the interval.
        seed: the same seed gives the same interval, that of ``scipy.stats.bootstrap(..., method="percentile")``.

    Returns:
        low, high.  Both are NaN where a resample has no defined score.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    random = np.random.default_rng(seed)
    resampled = np.empty(n)
    for i in range(n):  # one resample at a time: all at once would take n copies of the predictions
        rows = random.integers(0, len(labels), len(labels))
        resampled[i] = function(labels[rows], predictions[rows])
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _names(labels):
    """Names of the scores that are defined for these classes."""
    return [name for name in SCORES if name != "challenge_score" or np.shape(labels)[1] == len(WEIGHTS)]


def check_scores(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as real numbers, both (records, classes).

    Raises:
        ValueError: shapes differ or labels are not 0 or 1.
        ECGError: there is no record, or a score is NaN.
    """
    labels, scores = _boolean("labels", labels), np.asarray(scores)
    _check_shapes(labels, scores)
    missing = np.isnan(scores).sum()
    if missing:
        record, column = np.argwhere(np.isnan(scores))[0]
        raise ECGError(f"{missing} of {scores.size} scores are not a number, the first in record {record}, class "
                       f"{column}: the model has diverged or its input holds NaN; use other weights or mend the input")
    return labels, scores


def _binary(labels, outputs):
    labels, outputs = _boolean("labels", labels), _boolean("outputs", outputs)
    _check_shapes(labels, outputs)
    return labels, outputs


def _boolean(name, values):
    values = np.asarray(values)
    if values.dtype == bool:
        return values
    if not np.all((values == 0) | (values == 1)):
        raise ValueError(f"{name} must be 0 or 1; apply thresholds to scores first")
    return values != 0


def _check_shapes(labels, predictions):
    if labels.ndim != 2 or labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must both be (records, classes)")
    if not len(labels):
        raise ECGError("there is no record to score: the fold is empty")


def row_sum(flags):
    """How many classes each record has, (records,); a matrix product because NumPy sums short rows slowly."""
    return (flags.astype(np.float32) @ np.ones(flags.shape[1], np.float32)).astype(float)


def _confusion(labels, outputs, share):
    """TP, FP and FN of each class, (classes,), where record i counts share[i]."""
    return share @ (labels & outputs), share @ (outputs & ~labels), share @ (labels & ~outputs)


def _ratio(numerator, denominator):
    """numerator / denominator, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(denominator), np.nan), where=denominator != 0)

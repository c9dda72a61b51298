"""The registry of scores: a name means one formula, in configs, CSV files, reports and
best-<name>.pth.

    scores = parse_scores(["AUROC", {"F1Score": {"average": "micro"}}])
    compute_scores(probabilities, labels, scores, "multilabel")
        {"AUROC": 0.93, "F1Score_micro": 0.71}
    python -m util.scoring.scores > docs/scores.md    which name equals which published number

A new score is one entry of ``SCORES``: a function of boolean labels and of probabilities or
boolean outputs, both (records, classes), and a line on what it is; in regression of labels and
predictions in their units.  ``_over_classes``, ``_whole`` and ``_library`` turn a function that
gives one value a class, one value in all, or that is torchmetrics', into a formula.  No formula
sees an unknown label: ``compute_scores`` leaves it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torchmetrics.functional as tm

from util.challenge import ABBREVIATIONS, NORMAL, WEIGHTS
from util.errors import ConfigError, ECGError

# records at a time: temporary arrays stay in the cache, three times faster than all at once
BLOCK = 1024
RESAMPLES = 128  # rows of weights at a time, for the same reason
TINY = np.finfo(float).tiny

ByClass = Callable[[np.ndarray, np.ndarray], np.ndarray]  # labels, predictions -> (classes,)
# (labels, predictions, average, task) -> float, of arrays (records, classes)
Formula = Callable[[np.ndarray, np.ndarray, str | None, str], float]
Thresholding = float | np.ndarray | Callable[[np.ndarray], np.ndarray]


# ============ formulas ============
def challenge_score(labels: np.ndarray, outputs: np.ndarray) -> float:
    """Return the Challenge 2020 score: 1 for perfect outputs, 0 for "sinus rhythm" every time.

    A = sum over records of outer(L_i, O_i) / max(|L_i or O_i|, 1) and s(O) = sum(W * A); the
    score is (s(O) - s(inactive)) / (s(L) - s(inactive)), or 0 where that denominator is 0.
    W[true, output class] are the Challenge's weights.  Like ``exact_match``, ``f1``, ``f2`` and
    ``g2`` it is defined by Perez Alday et al., Physiological Measurement 41 (2020) 124003.

    Args:
        labels, outputs: bool (records, 24).
    """
    observed, inactive, perfect = challenge_sums(labels, outputs)
    return (observed - inactive) / (perfect - inactive) if perfect != inactive else 0.0


def challenge_sums(labels: np.ndarray, outputs: np.ndarray) -> tuple[float, float, float]:
    """Return s(O), s(inactive) and s(L), from which ``challenge_score`` is computed."""
    labels, outputs = _binary(labels, outputs)
    if labels.shape[1] != len(WEIGHTS):
        raise ValueError(
            f"the Challenge score needs {len(WEIGHTS)} classes, the labels have {labels.shape[1]}"
        )
    sums = np.zeros(3)
    for start in range(0, len(labels), BLOCK):
        label, output = labels[start : start + BLOCK], outputs[start : start + BLOCK]
        # C order, so that the rounding, too, is the same however the arrays lie in memory
        true, answer = label.astype(float, order="C"), output.astype(float, order="C")
        credit = true @ WEIGHTS  # (records, classes): of each output, before normalisation
        size = row_sum(label)
        observed = np.vecdot(credit, answer) / np.maximum(row_sum(label | output), 1)
        union = size + ~label[:, NORMAL]  # of the labels and sinus rhythm: never empty
        inactive = credit[:, NORMAL] / union
        perfect = np.vecdot(credit, true) / np.maximum(size, 1)
        sums += observed.sum(), inactive.sum(), perfect.sum()
    observed_sum, inactive_sum, perfect_sum = sums.tolist()
    return observed_sum, inactive_sum, perfect_sum


def exact_match(labels: np.ndarray, outputs: np.ndarray) -> float:
    """Return the share of records whose outputs are right in every class."""
    labels, outputs = _binary(labels, outputs)
    return float(np.mean(~np.any(labels != outputs, axis=1)))


def f1(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return 2 TP / (2 TP + FP + FN) of each class, NaN without a label or an output."""
    true, false, missed = _confusion(labels, outputs)
    return _ratio(2 * true, 2 * true + false + missed)


def f2(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return the Challenge's F of beta 2, 5 TP / (5 TP + FP + 4 FN), of each class.

    Record i counts 1 / max(|L_i|, 1); NaN as for ``f1``.
    """
    true, false, missed = _confusion(labels, outputs, shared=True)
    return _ratio(5 * true, 5 * true + false + 4 * missed)


def g2(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return the Challenge's G of beta 2, TP / (TP + FP + 2 FN), counted as in ``f2``."""
    true, false, missed = _confusion(labels, outputs, shared=True)
    return _ratio(true, true + false + 2 * missed)


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the area under the ROC curve of each class: trapezoids between distinct scores.

    Args:
        labels: (records, classes) of 0, 1 and NaN, unknown, which takes no part.
        scores: (records, classes), higher for the likelier.
        weights: (n, records), of 0 or more: how often each record counts; None: once.

    Returns:
        float64 (classes,), with weights (n, classes); NaN without positives or negatives.
    """
    return _areas(_area_under_roc, labels, scores, weights)


def auprc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the area under the precision-recall curve of each class, as a step function.

    It is the sum over distinct scores of (recall_k - recall_{k-1}) * precision_k.  Arguments as
    for ``auroc``.

    Returns:
        float64 (classes,), with weights (n, classes); NaN without positives.
    """
    return _areas(_area_under_precision, labels, scores, weights)


def _areas(
    area: ByClass, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """``area`` class by class, as a column fits into the processor's cache."""
    labels, scores, known = _check_known(np.asarray(labels), scores)
    rows = np.ones((1, len(labels)), bool) if weights is None else np.asarray(weights)
    columns = zip(*(np.ascontiguousarray(part.T) for part in (labels, known & ~labels, scores)))
    areas = [_class_area(area, true, false, score, rows) for true, false, score in columns]
    values = np.stack(areas, axis=1)
    return values[0] if weights is None else values


def _class_area(
    area: ByClass,
    positive: np.ndarray,
    negative: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """``area`` of one class for each row of weights, (n,): it is sorted once for all of them."""
    order = np.argsort(scores)[::-1]
    falling, positive, negative = scores[order], positive[order], negative[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
    values = np.empty(len(weights))
    for start in range(0, len(weights), RESAMPLES):
        ordered = weights[start : start + RESAMPLES, order]
        true, false = (
            np.cumsum(ordered * side, axis=1)[:, ends].astype(float)
            for side in (positive, negative)
        )
        values[start : start + RESAMPLES] = area(true, false)
    return values


def _area_under_roc(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """AUROCs (n,) from positives and negatives at and above each distinct score, (n, scores)."""
    steps = np.diff(true, prepend=0)
    with np.errstate(invalid="ignore"):
        return np.vecdot(np.diff(false, prepend=0), true - steps / 2) / (true[:, -1] * false[:, -1])


def _area_under_precision(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """AUPRCs (n,), step functions; arguments as for ``_area_under_roc``."""
    precision = true / np.maximum(true + false, TINY)  # 0 where nothing counts so far
    with np.errstate(invalid="ignore"):
        return np.vecdot(np.diff(true, prepend=0), precision) / true[:, -1]


def mae(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the mean absolute error of each column."""
    return np.abs(predictions - labels).mean(axis=0)


def r2(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return 1 - sum (y - f)^2 / sum (y - mean y)^2 of each column.

    It is 1 for perfect predictions, 0 for the mean of these labels, below for worse; NaN for
    labels that are all the same.
    """
    residual = np.square(labels - predictions).sum(axis=0)
    total = np.square(labels - labels.mean(axis=0)).sum(axis=0)
    return 1 - _ratio(residual, np.where(np.ptp(labels, axis=0) > 0, total, 0))


def macro(values: np.ndarray) -> float:
    """Return the mean over the classes whose value is defined, NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


# ============ registry ============
def _over_classes(function: ByClass) -> Formula:
    """Formula of a ``function`` that gives (classes,): the mean of the defined values (macro), or
    the value of all classes pooled into one (micro).
    """

    def formula(
        labels: np.ndarray, predictions: np.ndarray, average: str | None, task: str
    ) -> float:
        if average == "micro":
            labels, predictions = labels.reshape(-1, 1), predictions.reshape(-1, 1)
        return macro(function(labels, predictions))

    return formula


def _whole(function: Callable[[np.ndarray, np.ndarray], float]) -> Formula:
    """Formula of a ``function`` that gives one value for all classes together."""
    return lambda labels, predictions, average, task: function(labels, predictions)


def _library(function: Callable[..., torch.Tensor]) -> Formula:
    """Formula of a ``function`` of torchmetrics, without its checks, which take longer than the
    score.
    """

    def formula(labels: np.ndarray, outputs: np.ndarray, average: str | None, task: str) -> float:
        classes, size = "num_labels", labels.shape[1]
        if task == "multiclass":
            classes = "num_classes"
            labels, outputs = labels.argmax(axis=1), outputs.argmax(axis=1)
        arguments: dict[str, Any] = {"task": task, "average": average, classes: size}
        tensors = [torch.from_numpy(array).long() for array in (outputs, labels)]
        return float(function(*tensors, validate_args=False, **arguments))

    return formula


@dataclass(frozen=True)
class Score:
    """An entry of the registry.

    Attributes:
        formula: of labels and predictions, (records, classes) both, an average and a task.
        takes: the predictions: "probabilities", "outputs", bool, after thresholds, or "values".
        meaning: a line for docs/scores.md.
        published: the published number that it equals, in words.
        heading: its column in the published table of threshold_search.py; "": not part of it.
        averages: those a config may ask for, the default first; (None,): no choice.
        tasks: where it is defined.
        challenge: it needs the Challenge's 24 classes.
        lower_is_better: best-<name>.pth holds the weights with its smallest value.
        whole_records: a record with any unknown label is left out, not this label alone.
        weighted: the function of ``formula``, if it takes weights (n, records) as ``auroc`` does.
        shares: the average by which it is a share of records or answers that are right, "all" for
            any, "" for none.
    """

    formula: Formula
    takes: str
    meaning: str
    published: str = ""
    heading: str = ""
    averages: tuple[str | None, ...] = ("macro", "micro")
    tasks: tuple[str, ...] = ("multilabel", "multiclass")
    challenge: bool = False
    lower_is_better: bool = False
    whole_records: bool = False
    weighted: Callable[..., np.ndarray] | None = None
    shares: str = ""

    @property
    def average(self) -> str | None:
        """Return the average it is computed with."""
        return self.averages[0]

    @property
    def counts_records(self) -> bool:
        """Return whether it is a share of right records, or of right answers."""
        return self.shares == "all" or self.shares == self.average


# defined for such labels alone
_CHALLENGE: dict[str, Any] = {"tasks": ("multilabel",), "averages": ("macro",)}
_REGRESSION: dict[str, Any] = {"tasks": ("regression",), "averages": ("macro",)}
SCORES = {
    "AUROC": Score(
        _over_classes(auroc),
        "probabilities",
        "area under the ROC curve; a class without positives or without negatives is left out",
        "the Challenge's and the fusion paper's AUROC; ST-MEM's (torchmetrics) where no class is "
        "left out, since such a class counts 0 there",
        "AUROC",
        weighted=auroc,
    ),
    "AUPRC": Score(
        _over_classes(auprc),
        "probabilities",
        "area under the precision-recall curve, in steps; a class without positives is left out",
        "the Challenge's and the fusion paper's AUPRC; torchmetrics' where no class is left out, "
        "since such a class counts 0 there",
        "AUPRC",
        weighted=auprc,
    ),
    "Accuracy": Score(
        _library(tm.accuracy),
        "outputs",
        "share of right answers over classes and records; multi-class: share of records with the "
        "right class, macro: mean of the classes' recall",
        "ST-MEM's Accuracy (torchmetrics)",
        averages=("micro", "macro"),
        shares="micro",
    ),
    "F1Score": Score(
        _library(tm.f1_score),
        "outputs",
        "2 TP / (2 TP + FP + FN); multi-label: a class with neither a label nor an output counts 0",
        "ST-MEM's F1Score (torchmetrics), its zero for an absent class included",
    ),
    "ExactMatch": Score(
        _whole(exact_match),
        "outputs",
        "share of records that are right in every class",
        "the Challenge's accuracy, the fusion paper's Acc",
        "Acc",
        averages=(None,),
        tasks=("multilabel",),
        whole_records=True,
        shares="all",
    ),
    "ChallengeF1": Score(
        _over_classes(f1),
        "outputs",
        "2 TP / (2 TP + FP + FN); a class with neither a label nor an output is left out",
        "the Challenge's macro F1, the fusion paper's F1",
        "F1",
        **_CHALLENGE,
    ),
    "F2": Score(
        _over_classes(f2),
        "outputs",
        "5 TP / (5 TP + FP + 4 FN), a record counting 1 / its number of labels; classes left out "
        "as above",
        "the Challenge's F of beta 2",
        "F2",
        whole_records=True,
        **_CHALLENGE,
    ),
    "G2": Score(
        _over_classes(g2),
        "outputs",
        "TP / (TP + FP + 2 FN), counted as in F2",
        "the Challenge's G of beta 2",
        "G2",
        whole_records=True,
        **_CHALLENGE,
    ),
    "ChallengeScore": Score(
        _whole(challenge_score),
        "outputs",
        "credit by the Challenge's weights: 1 for perfect outputs, 0 for sinus rhythm throughout",
        "the Challenge's score, the fusion paper's CM",
        "CM",
        averages=(None,),
        tasks=("multilabel",),
        challenge=True,
        whole_records=True,
    ),
    "MAE": Score(
        _over_classes(mae),
        "values",
        "mean absolute error, in the labels' unit; over several columns the mean of their errors",
        lower_is_better=True,
        **_REGRESSION,
    ),
    "R2": Score(
        _over_classes(r2),
        "values",
        "coefficient of determination: 1 for perfect predictions, 0 for the mean of these "
        "records; a column whose labels are all the same is left out",
        **_REGRESSION,
    ),
}
# by task
DEFAULTS = {"multilabel": ["AUROC"], "multiclass": ["AUROC"], "regression": ["MAE", "R2"]}
REPORT = [name for name, score in SCORES.items() if score.heading]


def _printed(name: str, average: str | None) -> str:
    """A score's name in tables: with the average, unless that is its default."""
    return name if average == SCORES[name].average else f"{name}_{average}"


_BY_PRINTED = {
    _printed(name, average): (name, {"average": average})
    for name, score in SCORES.items()
    for average in filter(None, score.averages)
}


def lower_is_better(name: str) -> bool:
    """Return whether the smallest value under a printed name is the best, "loss" included."""
    return name == "loss" or SCORES[name.split("_")[0]].lower_is_better


def parse_scores(
    target_metrics: list | None, class_names: Sequence[str] = (), task: str = "multilabel"
) -> dict[str, Score]:
    """Read ``metric.target_metrics`` as {printed name: score}.

    Args:
        target_metrics: names, or {name: {average: macro | micro}}.  With another average than its
            default a score has a longer name, such as F1Score_micro, which may be given, too.
            None: the task's DEFAULTS.
        class_names: of the labels.
        task: multilabel, multiclass or regression.

    Raises:
        ConfigError: an unknown score or argument, one named twice, one that these classes or this
            task lack.
    """
    parsed: dict[str, Score] = {}
    for item in DEFAULTS[task] if target_metrics is None else target_metrics:
        name, arguments = item, None
        if isinstance(item, dict) and len(item) == 1:
            [(name, arguments)] = item.items()
        if isinstance(name, str) and not arguments:
            name, arguments = _BY_PRINTED.get(name, (name, {"average": None}))
        if not isinstance(name, str) or name not in SCORES:
            raise ConfigError(
                f"metric.target_metrics: unknown metric {name!r}; known: {', '.join(SCORES)}"
            )
        score = SCORES[name]
        if arguments not in [{"average": average} for average in score.averages]:
            known = " or ".join(filter(None, score.averages))
            takes = f"average: {known}" if known else "no argument"
            raise ConfigError(f"metric.target_metrics: {name} takes {takes}, not {arguments!r}")
        if task not in score.tasks:
            raise ConfigError(
                f"metric.target_metrics: {name} is defined for metric.task {score.tasks[0]}, not "
                f"{task}; leave it out"
            )
        if score.challenge and tuple(class_names) != ABBREVIATIONS:
            raise ConfigError(
                f"metric.target_metrics: {name} needs dataset.classes: challenge2020; with "
                "labels of your own leave it out, as --overlay own_labels does"
            )
        printed = _printed(name, arguments["average"])
        if printed in parsed:
            raise ConfigError(f"metric.target_metrics names {printed} twice")
        parsed[printed] = replace(score, averages=(arguments["average"],))
    return parsed


def compute_scores(
    probabilities: np.ndarray,
    labels: np.ndarray,
    scores: dict[str, Score],
    task: str,
    thresholds: Thresholding = 0.5,
) -> dict[str, float]:
    """Return {name: value} of ``parse_scores``' scores, every record counted once.

    Unknown labels, NaN, take no part.  A value is NaN where no class has one, and everywhere if a
    probability is not finite.

    Args:
        probabilities: float (records, classes), or predictions in regression.
        labels: (records, classes) of 0, 1 and NaN for multilabel, of numbers and NaN for
            regression, (records,) of class numbers for multiclass.
        thresholds: a multi-label output is on above one threshold for all, as in torchmetrics, or
            at and above its class's of (classes,), as in ``util.scoring.thresholds``, or where a
            function of the probabilities says so.  A multi-class output is the likeliest class.

    Raises:
        ECGError: there is no record.
    """
    if not np.isfinite(probabilities).all():
        return dict.fromkeys(scores, float("nan"))
    if task == "regression":
        labels, values = np.asarray(labels, float), np.asarray(probabilities, float)
        known, predictions = ~np.isnan(_same_shape(labels, values)[0]), {"values": values}
    else:
        labels, known, predictions = _classified(probabilities, labels, task, thresholds)
    of = _value if known.all() else _value_of_known
    return {
        name: of(score, labels, predictions[score.takes], known, task)
        for name, score in scores.items()
    }


def _classified(
    probabilities: np.ndarray, labels: np.ndarray, task: str, thresholds: Thresholding
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Labels as bool (records, classes), which of them are known, and the predictions by what
    scores take.
    """
    if task == "multiclass":
        each = np.arange(probabilities.shape[1])
        labels, outputs = labels[:, None] == each, probabilities.argmax(axis=1)[:, None] == each
    elif callable(thresholds):
        outputs = thresholds(probabilities)
    elif np.ndim(thresholds):
        outputs = probabilities.astype(np.float64) >= thresholds
    else:
        outputs = probabilities > thresholds
    labels, probabilities, known = _check_known(labels, probabilities)
    return labels, known, {"probabilities": probabilities, "outputs": outputs}


def _value(
    score: Score, labels: np.ndarray, predictions: np.ndarray, known: np.ndarray, task: str
) -> float:
    return float(score.formula(labels, predictions, score.average, task))


def _value_of_known(
    score: Score, labels: np.ndarray, predictions: np.ndarray, known: np.ndarray, task: str
) -> float:
    """The same where labels are unknown: of the records without such a label, or class by class
    of the known labels, or of all known labels pooled.
    """
    if score.whole_records:
        rows = known.all(axis=1)
        parts = [(labels[rows], predictions[rows])]
    elif score.average == "micro":
        parts = [(labels[known][:, None], predictions[known][:, None])]
    else:
        parts = [
            (labels[rows, c : c + 1], predictions[rows, c : c + 1])
            for c, rows in enumerate(known.T)
        ]
    average = score.average if score.whole_records else "macro"
    values = [
        float(score.formula(*part, average, task)) if len(part[0]) else np.nan for part in parts
    ]
    return macro(np.array(values))


def as_markdown() -> str:
    """Return docs/scores.md: every score and the published number that it equals."""
    lines = [
        "# Scores",
        "",
        _INTRODUCTION,
        "| name | averages | task | what it is | equals |",
        "|---" * 5 + "|",
    ]
    for name, score in SCORES.items():
        averages = ", ".join(filter(None, score.averages)) or "-"
        task = ", ".join(score.tasks) + ", challenge2020" * score.challenge
        meaning = (
            f"of {score.takes}: {score.meaning}" + "; of wholly known records" * score.whole_records
        )
        lines.append(f"| `{name}` | {averages} | {task} | {meaning} | {score.published or '-'} |")
    return "\n".join(lines)


_INTRODUCTION = """\
Made by `python -m util.scoring.scores > docs/scores.md`.  A name means the same formula in
`metric.target_metrics`, `test_metrics.csv`, `summary.csv`, `best-<name>.pth` and the report of
`experiments/threshold_search.py`.  Scores of outputs depend on thresholds: in training and test a
class is output above 0.5, in the report at or above the threshold that was searched for it.  The
first average is the default; another one is part of the name, as in `F1Score_micro`.  A class
without a value is left out of a macro mean unless the table says otherwise.

An unknown label takes no part: a macro average is computed class by class over the records whose
label is known, a micro average over all known labels.  A score "of wholly known records" judges a
record as a whole and leaves out those with any unknown label; a run says how many.  Scores of
values are in the units of the table of labels.
"""


# ============ checks and counts ============
def check_scores(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as bool and scores as real numbers, both (records, classes).

    Raises:
        ValueError: shapes differ or labels are not 0 or 1.
        ECGError: there is no record, or a score is NaN.
    """
    labels, scores = _same_shape(_boolean("labels", labels), np.asarray(scores))
    missing = np.isnan(scores).sum()
    if missing:
        record, column = np.argwhere(np.isnan(scores))[0]
        raise ECGError(
            f"{missing} of {scores.size} scores are not a number, the first in record {record}, "
            f"class {column}: the model has diverged or its input holds NaN; use other weights "
            "or mend the input"
        )
    return labels, scores


def _check_known(
    labels: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``check_scores``, and which labels are known; an unknown one, NaN, becomes False."""
    known = ~np.isnan(labels)
    return *check_scores(labels if known.all() else np.where(known, labels, 0), scores), known


def _binary(labels: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _same_shape(_boolean("labels", labels), _boolean("outputs", outputs))


def _boolean(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype != bool and not np.all((values == 0) | (values == 1)):
        raise ValueError(f"{name} must be 0 or 1; apply thresholds to scores first")
    return values.astype(bool, copy=False)


def _same_shape(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if labels.ndim != 2 or labels.shape != predictions.shape:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} must both be (records, "
            "classes)"
        )
    if not len(labels):
        raise ECGError("there is no record to score: the fold is empty")
    return labels, predictions


def row_sum(flags: np.ndarray) -> np.ndarray:
    """Return how many classes each record has, (records,).

    A matrix product, because NumPy sums short rows slowly.
    """
    return (flags.astype(np.float32) @ np.ones(flags.shape[1], np.float32)).astype(float)


def _confusion(
    labels: np.ndarray, outputs: np.ndarray, *, shared: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TP, FP and FN of each class, (classes,); ``shared``: a record counts 1 / max(|L_i|, 1)
    instead of 1.
    """
    labels, outputs = _binary(labels, outputs)
    share = 1 / np.maximum(row_sum(labels), 1) if shared else np.ones(len(labels))
    return share @ (labels & outputs), share @ (outputs & ~labels), share @ (labels & ~outputs)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full(len(denominator), np.nan), where=denominator != 0
    )


if __name__ == "__main__":
    print(as_markdown())

"""The registry of scores: a name means one formula, in configs, CSV files, reports and
best-<name>.pth.

    scores = parse_scores(["AUROC", {"F1Score": {"average": "micro"}}])
    compute_scores(probabilities, labels, scores, "multilabel")  {"AUROC": 0.93, "F1Score_micro":
        0.71}
    python -m util.scoring.scores > docs/scores.md          which name equals which published number

A new score is one entry of ``SCORES``: a function of boolean labels and of probabilities or
boolean outputs, both (records, classes), and a line on what it is; in regression of labels and
predictions in their own units. ``_over_classes``, ``_whole`` and ``_library`` make its formula of
a function that gives one value a class, one value in all, or that is torchmetrics'.  No formula
sees an unknown label: ``compute_scores`` leaves it out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torchmetrics.functional as tm

from util.challenge import ABBREVIATIONS, NORMAL, WEIGHTS
from util.errors import ConfigError, ECGError

# records at a time: temporary arrays stay in the cache, three times faster than all at once
BLOCK = 1024


# ============ formulas ============
def challenge_score(labels, outputs) -> float:
    """The Challenge 2020 score: 1 for perfect outputs, 0 for "sinus rhythm" as the answer to
    every record.

    A = sum over records of outer(L_i, O_i) / max(|L_i or O_i|, 1) and s(O) = sum(W * A); the
    score is (s(O) - s(inactive)) / (s(L) - s(inactive)), or 0 where that denominator is 0.
    W[true, output class] are the Challenge's weights; labels and outputs are bool (records, 24).
    Defined, as are ``exact_match``, ``f1``, ``f2`` and ``g2``, by Perez Alday et al.,
    Physiological Measurement 41 (2020) 124003.
    """
    observed, inactive, perfect = challenge_sums(labels, outputs)
    return (observed - inactive) / (perfect - inactive) if perfect != inactive else 0.0


def challenge_sums(labels, outputs) -> tuple[float, float, float]:
    """s(O), s(inactive) and s(L), of which ``challenge_score`` is made; arguments as there."""
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
        inactive = credit[:, NORMAL] / (
            size + ~label[:, NORMAL]
        )  # this union holds sinus rhythm at least
        perfect = np.vecdot(credit, true) / np.maximum(size, 1)
        sums += observed.sum(), inactive.sum(), perfect.sum()
    return tuple(sums.tolist())


def exact_match(labels, outputs) -> float:
    """Share of records whose outputs are right in every class."""
    labels, outputs = _binary(labels, outputs)
    return float(np.mean(~np.any(labels != outputs, axis=1)))


def f1(labels, outputs) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each class, (classes,); NaN without a label or an output."""
    true, false, missed = _confusion(labels, outputs)
    return _ratio(2 * true, 2 * true + false + missed)


def f2(labels, outputs) -> np.ndarray:
    """The Challenge's F of beta 2, 5 TP / (5 TP + FP + 4 FN) of each class; record i counts 1 /
    max(|L_i|, 1).  NaN as for ``f1``.
    """
    true, false, missed = _confusion(labels, outputs, shared=True)
    return _ratio(5 * true, 5 * true + false + 4 * missed)


def g2(labels, outputs) -> np.ndarray:
    """The Challenge's G of beta 2, TP / (TP + FP + 2 FN) of each class, counted as in ``f2``."""
    true, false, missed = _confusion(labels, outputs, shared=True)
    return _ratio(true, true + false + 2 * missed)


def auroc(labels, scores) -> np.ndarray:
    """Area under the ROC curve of each class, (classes,): trapezoids between distinct scores.
    NaN for a class without positives or without negatives."""
    return _each_class(_auroc, labels, scores)


def auprc(labels, scores) -> np.ndarray:
    """Area under the precision-recall curve of each class, (classes,), as a step function over
    distinct scores: sum of (recall_k - recall_{k-1}) * precision_k.  NaN for a class without
    positives.
    """
    return _each_class(_auprc, labels, scores)


def _each_class(area, labels, scores):
    """``area`` of each class's cumulative counts; class by class, as a column fits into the
    processor's cache.
    """
    labels, scores = check_scores(labels, scores)
    columns = zip(np.ascontiguousarray(labels.T), np.ascontiguousarray(scores.T))
    return np.array([area(*_cumulative_counts(*column)) for column in columns])


def _cumulative_counts(labels, scores):
    """How many positives and records score at least as high as each distinct score, from the
    highest down.
    """
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


def mae(labels, predictions) -> np.ndarray:
    """Mean absolute error of each column, (columns,)."""
    return np.abs(predictions - labels).mean(axis=0)


def r2(labels, predictions) -> np.ndarray:
    """1 - sum (y - f)^2 / sum (y - mean y)^2 of each column, (columns,): 1 for perfect
    predictions, 0 for the mean of these labels, below for worse; NaN for labels that are all the
    same.
    """
    residual = np.square(labels - predictions).sum(axis=0)
    total = np.square(labels - labels.mean(axis=0)).sum(axis=0)
    return 1 - _ratio(residual, np.where(np.ptp(labels, axis=0) > 0, total, 0))


def macro(values) -> float:
    """Mean over the classes whose value is defined; NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


# ============ registry ============
def _over_classes(function):
    """Formula of a ``function`` that gives (classes,): the mean of the defined values (macro), or
    the value of all classes pooled into one (micro).
    """

    def formula(labels, predictions, average, task):
        if average == "micro":
            labels, predictions = labels.reshape(-1, 1), predictions.reshape(-1, 1)
        return macro(function(labels, predictions))

    return formula


def _whole(function):
    """Formula of a ``function`` that gives one value for all classes together."""
    return lambda labels, predictions, average, task: function(labels, predictions)


def _library(function):
    """Formula of a ``function`` of torchmetrics, without its checks, which take longer than the
    score.
    """

    def formula(labels, outputs, average, task):
        size = {"num_classes" if task == "multiclass" else "num_labels": labels.shape[1]}
        arrays = (
            (outputs, labels)
            if task == "multilabel"
            else (outputs.argmax(axis=1), labels.argmax(axis=1))
        )
        tensors = [torch.from_numpy(array).long() for array in arrays]
        return function(*tensors, task=task, average=average, validate_args=False, **size)

    return formula


@dataclass(frozen=True)
class Score:
    """An entry of the registry."""

    # (labels, predictions, average, task) -> float, of arrays (records, classes)
    formula: Callable
    takes: str  # the predictions: "probabilities", "outputs", bool, after thresholds, or "values"
    meaning: str  # a line for docs/scores.md
    published: str = ""  # the published number that it equals, in words
    heading: str = ""  # in the published table of threshold_search.py; "" if it is not part of it
    averages: tuple = (
        "macro",
        "micro",
    )  # that a config may ask for, the default first; (None,): no choice
    tasks: tuple = ("multilabel", "multiclass")
    challenge: bool = False  # needs the Challenge's 24 classes
    lower_is_better: bool = False  # best-<name>.pth holds the weights with its smallest value
    whole_records: bool = (
        False  # leaves out records of which any label is unknown, not these labels alone
    )

    @property
    def average(self) -> str | None:
        """The average it is computed with."""
        return self.averages[0]


_CHALLENGE = {"tasks": ("multilabel",), "averages": ("macro",)}  # defined for such labels alone
_REGRESSION = {"tasks": ("regression",), "averages": ("macro",)}
SCORES = {
    "AUROC": Score(
        _over_classes(auroc),
        "probabilities",
        "area under the ROC curve; a class without positives or without negatives is left out",
        "the Challenge's and the fusion paper's AUROC; ST-MEM's (torchmetrics) where no class is "
        "left out, since such a class counts 0 there",
        "AUROC",
    ),
    "AUPRC": Score(
        _over_classes(auprc),
        "probabilities",
        "area under the precision-recall curve, in steps; a class without positives is left out",
        "the Challenge's and the fusion paper's AUPRC; torchmetrics' where no class is left out, "
        "since such a class counts 0 there",
        "AUPRC",
    ),
    "Accuracy": Score(
        _library(tm.accuracy),
        "outputs",
        "share of right answers over classes and records; multi-class: share of records with the "
        "right class, macro: mean of the classes' recall",
        "ST-MEM's Accuracy (torchmetrics)",
        averages=("micro", "macro"),
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
        (None,),
        ("multilabel",),
        whole_records=True,
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
        (None,),
        ("multilabel",),
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
        "records; "
        "a column whose labels are all the same is left out",
        **_REGRESSION,
    ),
}
DEFAULTS = {
    "multilabel": ["AUROC"],
    "multiclass": ["AUROC"],
    "regression": ["MAE", "R2"],
}  # by task
REPORT = [name for name, score in SCORES.items() if score.heading]


def _printed(name, average):
    """A score's name in tables: with the average, unless that is its default."""
    return name if average == SCORES[name].average else f"{name}_{average}"


_BY_PRINTED = {
    _printed(name, average): (name, {"average": average})
    for name, score in SCORES.items()
    for average in filter(None, score.averages)
}


def lower_is_better(name: str) -> bool:
    """Whether the smallest value under a printed name is the best: of "loss", and of scores that
    say so.
    """
    return name == "loss" or SCORES[name.split("_")[0]].lower_is_better


def parse_scores(
    target_metrics: list | None, class_names=(), task="multilabel"
) -> dict[str, Score]:
    """``metric.target_metrics`` as {printed name: score}.

    Args:
        target_metrics: names, or {name: {average: macro | micro}}.  With another average than its
            default a score has a name of its own, such as F1Score_micro, which may be given, too.
            None: the task's DEFAULTS.

    Raises:
        ConfigError: an unknown score or argument, one named twice, one that these classes or this
            task lack.
    """
    parsed = {}
    for item in DEFAULTS[task] if target_metrics is None else target_metrics:
        single = isinstance(item, dict) and len(item) == 1
        name, arguments = next(iter(item.items())) if single else (item, None)
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
                "labels "
                "of your own leave it out, as --overlay own_labels does"
            )
        printed = _printed(name, arguments["average"])
        if printed in parsed:
            raise ConfigError(f"metric.target_metrics names {printed} twice")
        parsed[printed] = replace(score, averages=(arguments["average"],))
    return parsed


def compute_scores(
    probabilities, labels, scores: dict[str, Score], task, thresholds=0.5
) -> dict[str, float]:
    """Values of ``parse_scores``' scores, every record once: {name: value}.  Unknown labels, NaN,
    take no part.

    NaN where no class has a value, and everywhere if a probability is not finite; no record is an
    ECGError.

    Args:
        probabilities: float (records, classes), or predictions in regression.
        labels: (records, classes) of 0, 1 and NaN for multilabel, of numbers and NaN for
            regression, (records,) of class numbers for multiclass.
        thresholds: a multi-label output is on above one threshold for all, as in torchmetrics, or
            at and above its own of (classes,), as in ``util.scoring.thresholds``, or where a
            function of the probabilities says so. A multi-class output is the likeliest class.
    """
    if not np.isfinite(probabilities).all():
        return dict.fromkeys(scores, float("nan"))
    if task == "regression":
        labels, predictions = (
            np.asarray(labels, float),
            {"values": np.asarray(probabilities, float)},
        )
        known = ~np.isnan(_same_shape(labels, predictions["values"])[0])
    else:
        labels, known, predictions = _classified(probabilities, labels, task, thresholds)
    of = _value if known.all() else _value_of_known
    return {
        name: of(score, labels, predictions[score.takes], known, task)
        for name, score in scores.items()
    }


def _classified(probabilities, labels, task, thresholds):
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
    known = ~np.isnan(labels)
    labels, probabilities = check_scores(
        labels if known.all() else np.where(known, labels, 0), probabilities
    )
    return labels, known, {"probabilities": probabilities, "outputs": outputs}


def _value(score, labels, predictions, known, task):
    return float(score.formula(labels, predictions, score.average, task))


def _value_of_known(score, labels, predictions, known, task):
    """The same where some labels are unknown: of the records without such a label, or class by
    class of the known labels, or of all known labels pooled.
    """
    if score.whole_records:
        mine = known.all(axis=1)
        parts = [(labels[mine], predictions[mine])]
    elif score.average == "micro":
        parts = [(labels[known][:, None], predictions[known][:, None])]
    else:
        parts = [
            (labels[mine, c : c + 1], predictions[mine, c : c + 1])
            for c, mine in enumerate(known.T)
        ]
    average = score.average if score.whole_records else "macro"
    return macro(
        np.array(
            [
                float(score.formula(*part, average, task)) if len(part[0]) else np.nan
                for part in parts
            ]
        )
    )


def as_markdown() -> str:
    """docs/scores.md: every score and the published number that it equals."""
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
Made by `python -m util.scoring.scores > docs/scores.md`.  A name means the same formula in `metric.target_metrics`,
`test_metrics.csv`, `summary.csv`, `best-<name>.pth` and the report of `experiments/threshold_search.py`.
Scores of outputs depend on thresholds: in training and test a class is output above 0.5, in the report at or
above the threshold that was searched for it.  The first average is the default; another one is part of the
name, as in `F1Score_micro`.  A class without a value is left out of a macro mean unless the table says otherwise.

An unknown label takes no part: a macro average is computed class by class over the records whose label is known, a
micro average over all known labels.  A score "of wholly known records" judges a record as a whole and leaves out those
with any unknown label; a run says how many.  Scores of values are in the units of the table of labels.
"""


# ============ checks and counts ============
def check_scores(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as real numbers, both (records, classes).

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
            "or "
            "mend the input"
        )
    return labels, scores


def _binary(labels, outputs):
    return _same_shape(_boolean("labels", labels), _boolean("outputs", outputs))


def _boolean(name, values):
    values = np.asarray(values)
    if values.dtype != bool and not np.all((values == 0) | (values == 1)):
        raise ValueError(f"{name} must be 0 or 1; apply thresholds to scores first")
    return values.astype(bool, copy=False)


def _same_shape(labels, predictions):
    if labels.ndim != 2 or labels.shape != predictions.shape:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} must both be (records, "
            "classes)"
        )
    if not len(labels):
        raise ECGError("there is no record to score: the fold is empty")
    return labels, predictions


def row_sum(flags):
    """How many classes each record has, (records,); a matrix product because NumPy sums short
    rows slowly.
    """
    return (flags.astype(np.float32) @ np.ones(flags.shape[1], np.float32)).astype(float)


def _confusion(labels, outputs, shared=False):
    """TP, FP and FN of each class, (classes,); ``shared``: a record counts 1 / max(|L_i|, 1)
    instead of 1.
    """
    labels, outputs = _binary(labels, outputs)
    share = 1 / np.maximum(row_sum(labels), 1) if shared else np.ones(len(labels))
    return share @ (labels & outputs), share @ (outputs & ~labels), share @ (labels & ~outputs)


def _ratio(numerator, denominator):
    """numerator / denominator, NaN where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full(len(denominator), np.nan), where=denominator != 0
    )


if __name__ == "__main__":
    print(as_markdown())

"""Metrics of a set of records, by torchmetrics, every record once.

AUROC and AUPRC leave out classes that have none; as published, a class that is neither present nor predicted counts 0
in the macro F1 of labels.  A config names metrics in ``metric.target_metrics``, as ``AUROC`` or
``{F1Score: {average: macro}}``.
"""
import warnings

import numpy as np
import torch
import torchmetrics.functional as tm

from util.challenge import ABBREVIATIONS
from util.errors import ConfigError
from util.scores import challenge_score

DECISION = 0.5  # a label is on above this probability


def _accuracy(probabilities, labels, task, average):
    """Multi-class: share of records with the right class (micro), or its mean over classes (macro).  Multi-label:
    share of right answers over all classes and records (micro), or its mean over classes, which is the same."""
    return tm.accuracy(probabilities, labels, average=average, **task)


def _f1(probabilities, labels, task, average):
    return tm.f1_score(probabilities, labels, average=average, **task)


def _per_class_mean(metric, needs_negatives):
    def compute(probabilities, labels, task, average):
        if average == "micro":
            return metric(probabilities.flatten(), one_hot(labels, probabilities.shape[1]).flatten(), task="binary")
        positives = one_hot(labels, probabilities.shape[1]).sum(dim=0)
        values = metric(probabilities, labels, average="none", **task)
        # Without a positive neither curve exists, nor ROC without a negative; torchmetrics would report 0.
        defined = (positives > 0) & (positives < len(labels) + (not needs_negatives))
        return values[defined].mean() if defined.any() else torch.tensor(float("nan"))
    return compute


def one_hot(labels, classes):
    """Class numbers (records,) as (records, classes) of 0 and 1; multi-label ones as they are."""
    return labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, classes)


METRICS = {"Accuracy": _accuracy, "F1Score": _f1, "AUROC": _per_class_mean(tm.auroc, True),
           "AUPRC": _per_class_mean(tm.average_precision, False), "ChallengeScore": None}
DEFAULT_AVERAGE = {"Accuracy": "micro"}


def parse_metrics(target_metrics: list, class_names=()) -> dict[str, str]:
    """``metric.target_metrics`` as {name: average}.

    Raises:
        ConfigError: unknown metric or argument, one named twice; ChallengeScore without the Challenge's classes.
    """
    parsed = {}
    for item in target_metrics:
        name, args = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
        if not isinstance(name, str) or name not in METRICS:
            raise ConfigError(f"metric.target_metrics: unknown metric {name!r}; known: {', '.join(METRICS)}")
        args = args or {}
        if not isinstance(args, dict) or set(args) - {"average"} or args.get("average", "macro") not in ("macro",
                                                                                                         "micro"):
            raise ConfigError(f"metric.target_metrics: {name} takes average: macro or micro, not {args!r}")
        if name == "ChallengeScore" and tuple(class_names) != tuple(ABBREVIATIONS):
            raise ConfigError("metric.target_metrics: ChallengeScore needs dataset.classes: challenge2020")
        if name in parsed:
            raise ConfigError(f"metric.target_metrics names {name} twice")
        parsed[name] = args.get("average", DEFAULT_AVERAGE.get(name, "macro"))
    return parsed


def compute_metrics(probabilities: np.ndarray, labels: np.ndarray, metrics: dict[str, str], task: str) -> dict[str,
                                                                                                               float]:
    """Values of ``parse_metrics``' metrics.

    Args:
        probabilities: (records, classes); labels: (records, classes) of 0 and 1 for multilabel, (records,) of class
            numbers for multiclass.

    Returns:
        {name: value}; NaN where no class has a value, and everywhere if a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        return dict.fromkeys(metrics, float("nan"))
    probabilities = probabilities.clip(0, 1)  # a rounding error above 1, and torchmetrics takes them all for logits
    p, y = torch.from_numpy(probabilities), torch.from_numpy(labels).long()
    count = {"num_labels": p.shape[1]} if task == "multilabel" else {"num_classes": p.shape[1]}
    values = {}
    for name, average in metrics.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # absent classes, which are left out by design
            if name == "ChallengeScore":
                values[name] = float(challenge_score(one_hot(y, p.shape[1]).numpy() > 0, probabilities > DECISION))
            else:
                values[name] = float(METRICS[name](p, y, {"task": task, **count}, average))
    return values

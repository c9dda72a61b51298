"""A threshold for each class, chosen on the selection fold, and what it does on the test fold."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from util.errors import ConfigError
from util.scoring.predictions import Predictions
from util.scoring.scores import auprc, auroc

RULES = "youden, f1, or sensitivity=S such as sensitivity=0.9"
SENSITIVITIES = (*range(50, 90, 5), *range(90, 101))  # %, of which weights keep the thresholds
WITHOUT = 0.5  # for classes without positive or without negative records


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray, rule: str) -> np.ndarray:
    """Return the best threshold of each class: float64 (classes,); 0.5 where nothing can be chosen.

    A record counts as positive where its probability is at least the threshold.

    Args:
        labels: (records, classes) of 1, 0 and NaN = unknown.
        probabilities: (records, classes).
        rule: youden (largest sensitivity + specificity), f1 (largest F1), or sensitivity=S (the
            highest threshold that reaches it).

    Raises:
        ConfigError: there is no such rule.
    """
    return by_rules(labels, probabilities, [rule])[rule]


def kept_thresholds(chosen: Predictions) -> dict[str, list[float]]:
    """Return what weights keep of their selection records: for every rule, sensitivities in
    steps, a threshold for each class; nothing where classes are not multi-label.
    """
    if chosen.task != "multilabel" or not len(chosen):
        return {}
    rules = ["youden", "f1", *(f"sensitivity={percent / 100:.2f}" for percent in SENSITIVITIES)]
    found = by_rules(chosen.labels, chosen.outputs, rules)
    return {rule: thresholds.tolist() for rule, thresholds in found.items()}


def kept_rule(rule: str, kept: Iterable[str]) -> str | None:
    """Return which of the rules that weights keep answers one that is asked for: itself, or the
    next higher sensitivity; None if none does.
    """
    wanted = wanted_sensitivity(rule)
    if wanted is None:
        return rule if rule in kept else None
    steps = {each: wanted_sensitivity(each) for each in kept if each.startswith("sensitivity=")}
    high = {each: step for each, step in steps.items() if step and step >= wanted - 1e-9}
    return min(high, key=lambda each: high[each], default=None)


def by_rules(
    labels: np.ndarray, probabilities: np.ndarray, rules: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the thresholds of ``choose_thresholds`` for several rules, sorted once for all."""
    order = np.argsort(-probabilities, axis=0, kind="stable")
    sorted_labels = np.take_along_axis(labels, order, axis=0)
    p = np.take_along_axis(probabilities, order, axis=0)
    true, false = np.cumsum(sorted_labels == 1, axis=0), np.cumsum(sorted_labels == 0, axis=0)
    positive, negative = true[-1], false[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, specificity = true / positive, 1 - false / negative
        f1 = 2 * true / (true + false + positive)
    last_of_ties = np.vstack([p[1:] != p[:-1], np.ones((1, p.shape[1]), bool)])
    # Halfway to the next lower probability: the choice must not hang on one record's last digit.
    middle = (p + np.vstack([p[1:], np.zeros((1, p.shape[1]))])) / 2
    found = {}
    for rule in rules:
        wanted = wanted_sensitivity(rule)
        quality = f1 if rule == "f1" else sensitivity + specificity
        if wanted is not None:
            quality = np.where(sensitivity >= wanted - 1e-12, p, -np.inf)
        best = np.where(last_of_ties, quality, -np.inf).argmax(axis=0)
        thresholds = middle[best, np.arange(p.shape[1])]
        found[rule] = np.where((positive > 0) & (negative > 0), thresholds, WITHOUT)
    return found


def wanted_sensitivity(rule: str) -> float | None:
    """Return S of the rule sensitivity=S, None for youden and f1.

    Raises:
        ConfigError: there is no such rule.
    """
    match = re.fullmatch(r"sensitivity=(0?\.\d+|1|1\.0*)", rule)
    if not match and rule not in ("youden", "f1"):
        raise ConfigError(f"no rule {rule!r} for thresholds; known: {RULES}")
    return float(match[1]) if match else None


def wilson(successes: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of a proportion (Wilson's), NaN without trials."""
    z = norm.ppf(0.975)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = successes / trials
        centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
        reach = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
        reach = reach / (1 + z**2 / trials)
    return centre - reach, centre + reach


def by_class(test: Predictions, decided: np.ndarray) -> pd.DataFrame:
    """Return a row for each class of multi-label predictions.

    Args:
        test: of the test records.
        decided: bool (records, classes), by the thresholds.

    Returns:
        class, records (known), positive, AUROC, AUPRC, sensitivity and specificity with the ends
        of their 95 % intervals, and the share of positive decisions that are right (precision).
    """
    is_positive, is_negative = test.labels == 1, test.labels == 0
    true = (decided & is_positive).sum(axis=0)
    rejected = (~decided & is_negative).sum(axis=0)
    positive, negative = is_positive.sum(axis=0), is_negative.sum(axis=0)
    claimed = (decided & (is_positive | is_negative)).sum(axis=0)
    sensitivity_low, sensitivity_high = wilson(true, positive)
    specificity_low, specificity_high = wilson(rejected, negative)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "class": test.classes,
            "records": positive + negative,
            "positive": positive,
            "AUROC": auroc(test.labels, test.outputs),
            "AUPRC": auprc(test.labels, test.outputs),
            "sensitivity": true / positive,
            "sensitivity_low": sensitivity_low,
            "sensitivity_high": sensitivity_high,
            "specificity": rejected / negative,
            "specificity_low": specificity_low,
            "specificity_high": specificity_high,
            "precision": true / claimed,
        }
    return pd.DataFrame(columns)

"""Thresholds by F1, Youden's index or a sensitivity, for any multi-label classes: each class by
itself.
"""

import math

import numpy as np
import pandas as pd

from util.scoring.operating_points import WITHOUT, by_class, choose_thresholds
from util.scoring.predictions import Predictions
from util.scoring.thresholds import Thresholds

MEANS = ["AUROC", "AUPRC", "F1", "sensitivity", "specificity", "precision"]  # over classes


def search_rule(rule: str, part: Predictions, codes: tuple[str, ...]) -> Thresholds:
    """Return the thresholds of a rule, see ``util.scoring.operating_points``.

    Args:
        rule: youden, f1 or sensitivity=S.
        part: of the search records; unknown labels take no part.
        codes: of the classes.
    """
    found = choose_thresholds(part.labels, part.outputs, rule)
    return Thresholds(found, math.nan, len(part), rule, codes=codes, names=part.classes)


def describe_rule(found: Thresholds, part: Predictions) -> str:
    """Say how many records the thresholds rest on, and which classes have none."""
    text = f"{found.method}: thresholds of {len(part.classes)} classes by {len(part)} records"
    counts = [(part.labels == value).sum(axis=0) for value in (1, 0)]
    without = [name for name, *known in zip(part.classes, *counts) if not all(known)]
    if without:
        text += (
            f"\nwithout positive or without negative records, so {WITHOUT}: {', '.join(without)}"
        )
    return text


def table_of(part: Predictions, found: Thresholds) -> pd.DataFrame:
    """Return a row for each class: threshold, sensitivity, specificity, F1 and more."""
    table = by_class(part, found.decide(part.outputs))
    precision, sensitivity = table["precision"].fillna(0), table["sensitivity"]
    sums = precision + sensitivity
    table["F1"] = (2 * precision * sensitivity / sums).where(sums != 0, 0.0)
    table["F1"] = table["F1"].where(table["positive"] > 0, np.nan)
    table.insert(1, "threshold", found.thresholds)
    return table


def report_rule(
    fold: int, select: int | str, valid: Predictions, found: Thresholds, test: Predictions
) -> pd.DataFrame:
    """Return the means over classes: a row for the selection fold and one for the test fold."""
    rows = []
    for name, number, part in (("search", select, valid), ("test", fold, test)):
        place = {"weights of fold": fold, "part": name, "fold": number, "records": len(part)}
        rows.append(place | table_of(part, found)[MEANS].mean().to_dict())
    return pd.DataFrame(rows)

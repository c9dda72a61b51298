"""Whether probabilities can be taken at their word, and label sets that hold the truth as often as
they say.

Split conformal prediction (Vovk, Gammerman and Shafer 2005), for each class and for each of its
sides by itself (label-conditional): whatever the model, of records that have a class at least the
stated share have it in their set, and of those that lack it at least that share have its absence,
on average over draws of selection and test records of one population.  That holds for given
weights: where the selection records chose the epoch, too, as here, limits are a little too narrow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from util.console import note
from util.scoring.predictions import Predictions

COVERAGES = (0.8, 0.9, 0.95)  # whose limits weights keep


# ============ calibration ============
def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Return, for equal bins of probability over all classes, how often the label was 1.

    Args:
        labels: (records, classes) of 1, 0 and NaN = unknown.
        probabilities: (records, classes).

    Returns:
        probability (mean), share (of positive labels), count; empty bins are left out.
    """
    known = ~np.isnan(labels)
    p, y = probabilities[known], labels[known]
    place = np.minimum((p * bins).astype(int), bins - 1)
    table = pd.DataFrame({"bin": place, "probability": p, "share": y})
    means = table.groupby("bin").agg(
        probability=("probability", "mean"), share=("share", "mean"), count=("share", "size")
    )
    return means.reset_index(drop=True)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error over all classes: the mean distance of share and
    probability over the bins of ``reliability``, weighed by their counts.
    """
    table = reliability(labels, probabilities)
    distance = (table["share"] - table["probability"]).abs()
    return float((distance * table["count"]).sum() / table["count"].sum())


def temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the number by which logits are divided for the smallest cross-entropy.

    Args:
        labels: (records, classes) of 1, 0 and NaN, of the selection fold.
        probabilities: (records, classes).
    """
    known = ~np.isnan(labels)
    logits, y = logit(np.clip(probabilities[known], 1e-7, 1 - 1e-7)), labels[known]
    candidates = np.geomspace(0.1, 10, 201)
    losses = [np.logaddexp(0, np.where(y == 1, -1, 1) * logits / t).mean() for t in candidates]
    best = float(candidates[int(np.argmin(losses))])
    if best in candidates[[0, -1]]:
        note(
            f"no temperature between 0.1 and 10 calibrates these probabilities: {best:g} is the "
            "nearest, on selection records that are all but told apart, or not at all"
        )
    return best


def tempered(probabilities: np.ndarray, by: float) -> np.ndarray:
    """Return probabilities whose logits are divided by a temperature."""
    return expit(logit(np.clip(probabilities, 1e-7, 1 - 1e-7)) / by)


def class_errors(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Return the expected calibration error and the Brier score of each class, ECE and Brier, of
    its known labels; NaN without any.
    """
    errors, briers = [], []
    for y, p in zip(labels.T, probabilities.T):
        known = ~np.isnan(y)
        squares = (p[known] - y[known]) ** 2
        briers.append(squares.mean() if known.any() else np.nan)
        errors.append(calibration_error(y[:, None], p[:, None]) if known.any() else np.nan)
    return pd.DataFrame({"ECE": errors, "Brier": briers})


# ============ label sets ============
@dataclass(frozen=True)
class LabelSets:
    """Limits of split conformal label sets.

    Attributes:
        coverage: share of the records that the sets are to hold the truth of.
        present: (classes,), the least probability with which a class may be present; 0 where too
            few selection records have it to rule it out at all.
        absent: (classes,), the largest with which it may be absent; 1 likewise.
    """

    coverage: float
    present: np.ndarray
    absent: np.ndarray

    @classmethod
    def fitted(cls, labels: np.ndarray, probabilities: np.ndarray, coverage: float) -> "LabelSets":
        """Return the limits that the selection records give.

        Args:
            labels: (records, classes) of 1, 0 and NaN = unknown.
            probabilities: (records, classes).
            coverage: between 0 and 1.
        """
        pairs = list(zip(labels.T, probabilities.T))
        return cls(
            coverage,
            np.array([-_limit(-p[y == 1], coverage, otherwise=0.0) for y, p in pairs]),
            np.array([_limit(p[y == 0], coverage, otherwise=1.0) for y, p in pairs]),
        )

    @classmethod
    def widest(cls, several: Sequence["LabelSets"]) -> "LabelSets":
        """Return the limits that leave most open, class by class."""
        return cls(
            several[0].coverage,
            np.min([each.present for each in several], axis=0),
            np.max([each.absent for each in several], axis=0),
        )

    def may_be_present(self, probabilities: np.ndarray) -> np.ndarray:
        """Return whose sets hold a class, bool (records, classes)."""
        return probabilities >= self.present

    def may_be_absent(self, probabilities: np.ndarray) -> np.ndarray:
        """Return whose sets hold a class's absence, bool (records, classes)."""
        return probabilities <= self.absent

    def decided(self, probabilities: np.ndarray) -> np.ndarray:
        """Return 1 where a set holds the presence alone, 0 the absence alone, NaN where it leaves
        open which (both, or neither): (records, classes).
        """
        present, absent = self.may_be_present(probabilities), self.may_be_absent(probabilities)
        return np.where(present != absent, present, np.nan)


def _limit(scores: np.ndarray, coverage: float, *, otherwise: float) -> float:
    """The score that a new one does not exceed with at least this chance; ``otherwise`` where
    there are too few to say.
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else otherwise


def fewest(coverage: float) -> int:
    """Return how many records a limit of this coverage needs at least."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def one_against_others(predictions: Predictions) -> np.ndarray:
    """Return labels (records, classes) of 1, 0 and NaN, also where a record has one class."""
    if predictions.task == "multiclass":
        return np.eye(len(predictions.classes))[predictions.labels]
    return predictions.labels


def set_table(test: Predictions, present: np.ndarray, absent: np.ndarray) -> pd.DataFrame:
    """Return what label sets hold on the test records, a row a class.

    Args:
        test: of the test records.
        present, absent: what their sets hold, bool (records, classes).

    Returns:
        class, positive (records), covered with the class and covered without it (shares of those
        records whose sets hold the truth), decided (share of sets with one answer) and right (of
        these).
    """
    labels = one_against_others(test)
    has, lacks, alone = labels == 1, labels == 0, present != absent
    decided = alone & (has | lacks)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "class": test.classes,
            "positive": has.sum(axis=0),
            "covered with it": (has & present).sum(axis=0) / has.sum(axis=0),
            "covered without it": (lacks & absent).sum(axis=0) / lacks.sum(axis=0),
            "decided": decided.sum(axis=0) / (has | lacks).sum(axis=0),
            "right": (decided & (has == present)).sum(axis=0) / decided.sum(axis=0),
        }
    return pd.DataFrame(columns)


# ============ in weights ============
def kept_calibration(chosen: Predictions) -> dict[str, Any]:
    """Return what weights keep of their selection records: "temperature", and under "sets" the
    limits "present" and "absent" of each class by coverage; nothing of numbers.
    """
    if chosen.task == "regression" or not len(chosen):
        return {}
    labels, kept = one_against_others(chosen), {}
    for coverage in COVERAGES:
        sets = LabelSets.fitted(labels, chosen.outputs, coverage)
        limits = {"present": sets.present.tolist(), "absent": sets.absent.tolist()}
        kept[f"{coverage:.2f}"] = limits
    several = chosen.task == "multilabel"
    by = {"temperature": temperature(labels, chosen.outputs)} if several else {}
    return {**by, "sets": kept}

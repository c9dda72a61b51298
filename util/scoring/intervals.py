"""Intervals of scores and of their differences: a bootstrap over patients that also holds for
rare classes.

The plain percentile bootstrap over records is too sure of itself where classes are rare: of a
class with 5 positive records its 95 % interval of the AUROC held the truth in 75 % of simulated
tests (RESULTS.md).  Here

- patients are drawn, with all their records, since two records of a patient are not independent;
- they are drawn within strata, a stratum being those whose rarest class is the same (of a common
class, those without
  it), and a draw that loses all positives or all negatives of a class is repeated: none leaves
  the mean in a resample;
- of a stratum of n patients n - 1 are drawn, as n would underestimate its variance by (n - 1) / n
  (Rao and Wu, JASA 1988);
- scores between 0 and 1 are taken to the logit scale, where their spread depends less on where
they lie; - the interval is that of Student's t.  Its degrees of freedom (Satterthwaite) follow
from how much each stratum
  contributes to the variance (infinitesimal jackknife, Efron, JASA 1992): few patients, few
  degrees.

A stratum of one patient is always drawn, and adds no variance.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from util.errors import ECGError
from util.scoring.scores import Score, compute_scores, macro

ROUNDS = 2000  # of drawing anew
FEWEST = 2.0  # degrees of freedom, at least
ROUNDING = 1e-12


@dataclass
class Predicted:
    """Predictions of a model on the test records of one fold.

    Attributes:
        labels, predictions: as ``util.scoring.scores.compute_scores`` takes them; outputs as 0.0
            and 1.0.
        patients: (records,), equal numbers for records of one patient; None: every record by
            itself.
        fold: each has records of its own; seed: of the training.
    """

    labels: np.ndarray
    predictions: np.ndarray
    patients: np.ndarray | None = None
    fold: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of two, with its interval; NaN where a resample has no score or
    hardly any has all classes, or no two patients are of a kind, so that nothing can vary.
    """

    value: float
    low: float
    high: float

    def difference_text(self) -> str:
        """A difference in words."""
        if np.isnan(self.low):
            return f"{self.value:+.3f} (no interval)"
        seen = ": no difference seen" if self.low <= 0 <= self.high else ""
        return f"{self.value:+.3f} (95 % interval {self.low:+.3f} to {self.high:+.3f}{seen})"


# ============ drawing ============
@dataclass(frozen=True)
class Draws:
    """``records`` (n, records) and ``patients`` (n, patients): how often each is in each
    resample; ``strata``: numbers of the patients of each, none where resamples that hold all
    sides of all classes are too rare.
    """

    records: np.ndarray
    patients: np.ndarray
    strata: list


def present_classes(labels, task: str) -> np.ndarray:
    """Which classes a record has, bool (records, classes); none where labels are no classes."""
    labels = np.asarray(labels)
    if task == "multiclass":
        return labels[:, None] == np.arange(labels.max() + 1)
    return labels > 0 if task == "multilabel" else np.zeros((len(labels), 1), bool)


def both_sides(labels, task: str) -> np.ndarray:
    """What a resample must hold: a record of each class and, multi-label, one known to be without
    it; bool (records, sides).
    """
    present = present_classes(labels, task)
    return (
        np.concatenate([present, np.asarray(labels) == 0], axis=1)
        if task == "multilabel"
        else present
    )


def rarer_sides(labels, task: str) -> np.ndarray:
    """``present_classes``, but of a class with fewer known negatives than positives, and some,
    the negatives.
    """
    present = present_classes(labels, task)
    if task != "multilabel":
        return present
    absent = np.asarray(labels) == 0
    positive, negative = present.sum(axis=0), absent.sum(axis=0)
    return np.where((negative > 0) & (negative < positive), absent, present)


def draw(present, patients=None, n=1000, seed=0, needed=None) -> Draws:
    """``n`` stratified resamples of records with these classes, bool (records, classes);
    ``needed``: what each must hold, bool (records, sides), by default a record of every class.
    """
    patients = np.arange(len(present)) if patients is None else np.asarray(patients)
    theirs, needed = (
        _of_patients(what, patients) for what in (present, present if needed is None else needed)
    )
    strata = strata_of(theirs)
    random = np.random.default_rng(seed)
    counts = np.zeros((n, len(theirs)), np.int64)
    wrong = np.arange(n)
    needed = needed[:, needed.any(axis=0)].astype(float)
    for _ in range(ROUNDS):
        for stratum in strata:
            size = len(stratum)
            counts[np.ix_(wrong, stratum)] = random.multinomial(
                max(size - 1, 1), np.full(size, 1 / size), len(wrong)
            )
        wrong = wrong[(counts[wrong] @ needed == 0).any(axis=1)]
        if not len(wrong):
            return Draws(counts[:, patients], counts, strata)
    return Draws(counts[:, patients], counts, [])


def _of_patients(records, patients):
    """bool (patients, ...): whether any record of a patient is so, of bool (records, ...)."""
    theirs = np.zeros((patients.max() + 1, records.shape[1]), bool)
    np.logical_or.at(theirs, patients, records)
    return theirs


def strata_of(theirs) -> list[np.ndarray]:
    """Patients by their rarest class, those without any together; ``theirs``: bool (patients,
    classes).
    """
    frequency = np.where(theirs, theirs.sum(axis=0), len(theirs) + 1)
    rarest = np.where(theirs.any(axis=1), frequency.argmin(axis=1), theirs.shape[1])
    return [np.flatnonzero(rarest == kind) for kind in np.unique(rarest)]


# ============ scores of resamples ============
def resampled_scores(name: str, score: Score, tested: Predicted, task: str, counts) -> np.ndarray:
    """The score of each resample, (n,); ``counts`` (n, records) says how often each record is in
    it.
    """
    if score.weighted and task == "multilabel":
        labels, predictions = np.asarray(tested.labels), np.asarray(tested.predictions)
        if score.average == "micro":
            counts = np.repeat(counts, labels.shape[1], axis=1)
            labels, predictions = labels.reshape(-1, 1), predictions.reshape(-1, 1)
        return np.array([macro(values) for values in score.weighted(labels, predictions, counts)])
    every = np.arange(len(tested.labels))
    return np.array(
        [
            compute_scores(tested.predictions[rows], tested.labels[rows], {name: score}, task)[name]
            for rows in (np.repeat(every, count) for count in counts)
        ]
    )


# ============ intervals ============
def estimate(
    name: str,
    score: Score,
    tests: list[Predicted],
    task: str,
    others: list[Predicted] = (),
    *,
    n=1000,
    level=0.95,
    seed=0,
) -> Estimate:
    """Mean score over folds and seeds with its interval, or how much higher it is than that of
    ``others``.

    Args:
        name, score: an entry of ``util.scoring.scores.parse_scores``.
        tests: one for each fold and seed; ``others``: of another model, on the same records of
            the same folds.
        n: resamples; level: chance that the interval holds the truth.

    The interval covers other patients and, with several seeds, other seeds of the training.  An
    ECGError: folds and seeds are incomplete, or tests of one fold are not of the same records.
    """
    drawn = {}
    for test in (*tests, *others):
        first, draws = drawn.setdefault(test.fold, (test, None))
        if not np.array_equal(first.labels, test.labels, equal_nan=True):
            raise ECGError(
                f"two predictions of fold {test.fold} are not of the same records; make them "
                "from "
                "one store"
            )
        if draws is None:
            drawn[test.fold] = (
                first,
                draw(
                    rarer_sides(first.labels, task),
                    first.patients,
                    n,
                    seed + test.fold,
                    both_sides(first.labels, task),
                ),
            )
    whole, resampled = _means(name, score, tests, task, drawn)
    if others:
        less, lower = _means(name, score, others, task, drawn)
        paired = len(less) == len(whole)  # the same seeds, or a mean of these
        whole, resampled = whole - (less if paired else less.mean()), resampled - lower
    value = float(whole.mean())
    can_vary = all(draws.strata for _, draws in drawn.values()) and any(
        len(stratum) > 1 for _, draws in drawn.values() for stratum in draws.strata
    )
    if not (can_vary and np.isfinite(resampled).all() and np.isfinite(whole).all()):
        return Estimate(value, np.nan, np.nan)
    if (
        others or score.challenge or score.lower_is_better or "regression" in score.tasks
    ):  # not from 0 to 1
        to_scale = from_scale = np.asarray
    else:
        margin = np.mean(
            [nearest(present_classes(test.labels, task)) for test, _ in drawn.values()]
        )
        to_scale, from_scale = (lambda x: logit(np.clip(x, margin, 1 - margin))), expit
    variance, degrees = _variance(
        to_scale(resampled), to_scale(whole), [draws for _, draws in drawn.values()]
    )
    if variance < ROUNDING**2:
        return Estimate(value, value, value)
    reach = student.ppf((1 + level) / 2, degrees) * variance**0.5
    low, high = (float(from_scale(to_scale(value) + side)) for side in (-reach, reach))
    return Estimate(
        value, min(low, value), max(high, value)
    )  # of a value nearer to 0 or 1 than the margin, too


def nearest(present) -> float:
    """How near a score may come to 0 and 1 on the logit scale: a quarter of a pair of a positive
    and a negative; ``present`` as for ``draw``.
    """
    positive = present.sum(axis=0)
    pairs = positive * (len(present) - positive)
    return float(np.mean(0.25 / pairs[pairs > 0])) if pairs.any() else 0.25 / len(present)


def _means(name, score, tests, task, drawn):
    """Mean score over folds of each seed, (seeds,), and of each resample over folds and seeds,
    (n,).
    """
    places = {(test.seed, test.fold): test for test in tests}
    seeds = sorted({test.seed for test in tests})
    if len(places) != len(tests) or len(tests) != len(seeds) * len(drawn):
        raise ECGError(
            "an interval needs one prediction of every fold by every seed, the same folds for "
            "both "
            "models"
        )
    whole = [
        np.mean(
            [
                compute_scores(
                    places[seed, fold].predictions, places[seed, fold].labels, {name: score}, task
                )[name]
                for fold in drawn
            ]
        )
        for seed in seeds
    ]
    resampled = sum(
        resampled_scores(name, score, test, task, drawn[test.fold][1].records) for test in tests
    )
    return np.array(whole), resampled / len(tests)


def _variance(resampled, whole, draws: list[Draws]) -> tuple[float, float]:
    """Variance of the mean score, and its degrees of freedom (Satterthwaite): that over
    resamples, divided among strata, and, with several seeds, that of a mean over seeds.
    """
    n, total = len(resampled), float(np.var(resampled))
    parts, degrees = [], []
    for fold in draws:
        counts = fold.patients - fold.patients.mean(axis=0)
        influence = (resampled - resampled.mean()) @ counts / n
        noise = total * np.mean(counts**2, axis=0) / n  # that of an influence from n resamples
        parts += [max(np.sum(influence[own] ** 2 - noise[own]), 0.0) for own in fold.strata]
        degrees += [len(own) - 1 for own in fold.strata]
    share = np.array([part for part, degree in zip(parts, degrees) if degree])
    own = np.array([degree for degree in degrees if degree])
    share = (
        total * share / share.sum() if share.sum() else np.full(len(own), total / max(len(own), 1))
    )
    if len(whole) > 1:
        share, own = (
            np.append(share, np.var(whole, ddof=1) / len(whole)),
            np.append(own, len(whole) - 1),
        )
    variance = float(share.sum())
    return variance, max(FEWEST, variance**2 / np.sum(share**2 / own)) if variance else FEWEST

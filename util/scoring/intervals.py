"""Intervals of scores and of their differences: a bootstrap over patients that also holds for
rare classes.

The plain percentile bootstrap over records is too sure of itself where classes are rare: of a
class with 5 positive records its 95 % interval of the AUROC held the truth in 75 % of simulated
tests (RESULTS.md).  Here

- patients are drawn, with all their records, since two records of a patient are not independent;
- they are drawn within strata: patients whose rarest class is the same make one (of a common
  class, those without it), and a draw that loses all positives or all negatives of a class is
  repeated, so that no class leaves the mean in a resample;
- of a stratum of n patients n - 1 are drawn, as n would underestimate its variance by (n - 1) / n
  (Rao and Wu, JASA 1988);
- scores between 0 and 1 are taken to the logit scale, where their spread depends less on where
  they lie;
- the interval is that of Student's t.  Its degrees of freedom (Satterthwaite) follow from how
  much each stratum contributes to the variance (infinitesimal jackknife, Efron, JASA 1992): few
  patients, few degrees.

A stratum of one patient is always drawn, and adds no variance.

Where nothing varies because every answer is right (or wrong), a bootstrap sees no error that could
be: the limit is then that of Clopper and Pearson (Biometrika 1934), the rule of three's exact form.
If M independent trials all succeed, a chance of success below a ^ (1 / M) is refuted at level a;
trials are patients, or for scores of classes disjoint pairs of a patient with and one without.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from util.errors import ECGError
from util.scoring.scores import Score, compute_scores, macro

ROUNDS = 2000  # of drawing anew
FEWEST = 2.0  # degrees of freedom, at least
ROUNDING = 1e-12
Scale = Callable[..., np.ndarray]


@dataclass
class Predicted:
    """Predictions of a model on the test records of one fold.

    Attributes:
        labels, predictions: as ``util.scoring.scores.compute_scores`` takes them; outputs as 0.0
            and 1.0.
        patients: (records,), equal numbers for records of one patient; None: every record by
            itself.
        fold: its number; no two folds share a record.
        seed: of the training.
    """

    labels: np.ndarray
    predictions: np.ndarray
    patients: np.ndarray | None = None
    fold: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of two, with its interval.

    ``low`` and ``high`` are NaN where a resample has no score, where hardly any resample has all
    classes, where no stratum has two patients, so that nothing can vary, and where nothing does
    in a score that is no number from 0 to 1.  ``p`` is how likely so large a difference is where
    there is none (two-sided, of the same distribution as the interval); NaN for a score alone, and
    where there is no interval or nothing varies.
    """

    value: float
    low: float
    high: float
    p: float = np.nan

    def difference_text(self) -> str:
        """Return a difference in words."""
        if np.isnan(self.low):
            return f"{self.value:+.3f} (no interval)"
        seen = ": no difference seen" if self.low <= 0 <= self.high else ""
        return f"{self.value:+.3f} (95 % interval {self.low:+.3f} to {self.high:+.3f}{seen})"


# ============ drawing ============
@dataclass(frozen=True)
class Draws:
    """Stratified resamples.

    Attributes:
        records: (n, records), how often each is in each resample.
        patients: (n, patients), how often each is in each resample.
        strata: the numbers of the patients of each; none where resamples that hold all sides of
            all classes are too rare.
    """

    records: np.ndarray
    patients: np.ndarray
    strata: list[np.ndarray]


def present_classes(labels: np.ndarray, task: str) -> np.ndarray:
    """Return which classes a record has, bool (records, classes); none where labels are numbers."""
    labels = np.asarray(labels)
    if task == "multiclass":
        return labels[:, None] == np.arange(labels.max() + 1)
    return labels > 0 if task == "multilabel" else np.zeros((len(labels), 1), bool)


def both_sides(labels: np.ndarray, task: str) -> np.ndarray:
    """Return what a resample must hold, bool (records, sides).

    A side is a record of a class, and, multi-label, one known to be without it.
    """
    present = present_classes(labels, task)
    if task != "multilabel":
        return present
    return np.concatenate([present, np.asarray(labels) == 0], axis=1)


def rarer_sides(labels: np.ndarray, task: str) -> np.ndarray:
    """Return ``present_classes``, but the known negatives of a class that has fewer of them.

    A class without any known negative keeps its positives.
    """
    present = present_classes(labels, task)
    if task != "multilabel":
        return present
    absent = np.asarray(labels) == 0
    positive, negative = present.sum(axis=0), absent.sum(axis=0)
    return np.where((negative > 0) & (negative < positive), absent, present)


def draw(
    present: np.ndarray,
    patients: np.ndarray | None = None,
    n: int = 1000,
    seed: int = 0,
    needed: np.ndarray | None = None,
) -> Draws:
    """Draw ``n`` stratified resamples of records.

    Args:
        present: the classes of each record, bool (records, classes).
        patients: (records,), the number of each record's patient; None: every record by itself.
        needed: what each resample must hold, bool (records, sides), by default a record of every
            class.
    """
    patients = np.arange(len(present)) if patients is None else np.asarray(patients)
    strata = strata_of(_of_patients(present, patients))
    sides = _of_patients(present if needed is None else needed, patients)
    sides = sides[:, sides.any(axis=0)].astype(float)
    random = np.random.default_rng(seed)
    counts = np.zeros((n, len(sides)), np.int64)
    wrong = np.arange(n)
    for _ in range(ROUNDS):
        for stratum in strata:
            size = len(stratum)
            counts[np.ix_(wrong, stratum)] = random.multinomial(
                max(size - 1, 1), np.full(size, 1 / size), len(wrong)
            )
        wrong = wrong[(counts[wrong] @ sides == 0).any(axis=1)]
        if not len(wrong):
            return Draws(counts[:, patients], counts, strata)
    return Draws(counts[:, patients], counts, [])


def _of_patients(records: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """bool (patients, ...): whether any record of a patient is so, of bool (records, ...)."""
    any_record = np.zeros((patients.max() + 1, records.shape[1]), bool)
    np.logical_or.at(any_record, patients, records)
    return any_record


def strata_of(present: np.ndarray) -> list[np.ndarray]:
    """Return the patients of each rarest class, those without any class together.

    Args:
        present: the classes of each patient, bool (patients, classes).
    """
    frequency = np.where(present, present.sum(axis=0), len(present) + 1)
    rarest = np.where(present.any(axis=1), frequency.argmin(axis=1), present.shape[1])
    return [np.flatnonzero(rarest == kind) for kind in np.unique(rarest)]


# ============ scores of resamples ============
def resampled_scores(
    name: str, score: Score, tested: Predicted, task: str, counts: np.ndarray
) -> np.ndarray:
    """Return the score of each resample, (n,).

    Args:
        counts: (n, records), how often each record is in each resample.
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
    tests: Sequence[Predicted],
    task: str,
    others: Sequence[Predicted] = (),
    *,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Return the mean score over folds and seeds, or how much higher it is than the others'.

    The interval covers other patients and, with several seeds, other seeds of the training.

    Args:
        name, score: an entry of ``util.scoring.scores.parse_scores``.
        tests: one for each fold and seed.
        others: of another model, on the same records of the same folds.
        n: resamples.
        level: chance that the interval holds the truth.

    Raises:
        ECGError: folds and seeds are incomplete, or tests of one fold are not of the same records.
    """
    folds: dict[int, Predicted] = {}
    for test in (*tests, *others):
        first = folds.setdefault(test.fold, test)
        if not np.array_equal(first.labels, test.labels, equal_nan=True):
            raise ECGError(
                f"two predictions of fold {test.fold} are not of the same records; make them "
                "from one store"
            )
    drawn = {
        fold: draw(
            rarer_sides(first.labels, task),
            first.patients,
            n,
            seed + fold,
            both_sides(first.labels, task),
        )
        for fold, first in folds.items()
    }
    whole, resampled = _means(name, score, tests, task, drawn)
    seeds = [whole]
    if others:
        other_whole, other_resampled = _means(name, score, others, task, drawn)
        paired = len(other_whole) == len(whole)  # the same seeds, or those of each by themselves
        seeds = [whole - other_whole] if paired else [whole, other_whole]
        whole = whole - (other_whole if paired else other_whole.mean())
        resampled = resampled - other_resampled
    value = float(whole.mean())
    can_vary = all(draws.strata for draws in drawn.values()) and any(
        len(stratum) > 1 for draws in drawn.values() for stratum in draws.strata
    )
    if not (can_vary and np.isfinite(resampled).all() and np.isfinite(whole).all()):
        return Estimate(value, np.nan, np.nan)
    from_0_to_1 = not (score.challenge or score.lower_is_better or "regression" in score.tasks)
    to_scale: Scale = np.asarray
    from_scale: Scale = np.asarray
    if from_0_to_1 and not others:
        present = [present_classes(first.labels, task) for first in folds.values()]
        margin = np.mean([nearest(classes) for classes in present])
        to_scale, from_scale = (lambda x: logit(np.clip(x, margin, 1 - margin))), expit
    by_seed = [to_scale(values) for values in seeds]
    variance, degrees = _variance(to_scale(resampled), by_seed, list(drawn.values()))
    if variance < ROUNDING**2:
        room = _unseen(score, list(folds.values()), task, (1 - level) / 2)
        return _without_variance(value, room, from_0_to_1, tests, others)
    reach = student.ppf((1 + level) / 2, degrees) * variance**0.5
    low, high = (float(from_scale(to_scale(value) + side)) for side in (-reach, reach))
    p = 2 * student.sf(abs(value) / variance**0.5, degrees) if others else np.nan
    # a value nearer to 0 or 1 than the margin lies outside of its clipped interval
    return Estimate(value, min(low, value), max(high, value), float(p))


def holm(p: Sequence[float]) -> np.ndarray:
    """Return p values corrected for as many comparisons as there are (Holm, Scandinavian Journal
    of Statistics 1979): the chance of any false difference stays below the level.

    Args:
        p: of each comparison; NaN, which stays NaN, is none.
    """
    values = np.asarray(p, float)
    corrected = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def _without_variance(
    value: float,
    room: float,
    from_0_to_1: bool,
    tests: Sequence[Predicted],
    others: Sequence[Predicted],
) -> Estimate:
    """The interval of a score that is the same in all resamples; ``room`` as of ``_unseen``."""
    pairs = list(zip(tests, others))
    if others and all(np.array_equal(one.predictions, two.predictions) for one, two in pairs):
        return Estimate(value, value, value)
    if not from_0_to_1:  # how much an error would cost is not known
        return Estimate(value, np.nan, np.nan)
    if others:
        return Estimate(value, value - room, value + room)
    if abs(value - 1) < ROUNDING:
        return Estimate(value, value - room, value)
    if abs(value) < ROUNDING:
        return Estimate(value, value, value + room)
    return Estimate(value, value, value)


def _unseen(score: Score, folds: Sequence[Predicted], task: str, level: float) -> float:
    """How far below 1 a score may truly be, of which no test shows an error."""
    trials = sum(_trials(score, fold, task) for fold in folds)
    return 1 - level ** (1 / max(trials, 1))


def _trials(score: Score, fold: Predicted, task: str) -> int:
    """The number of independent trials that a score counts: patients where it judges records or
    answers one by one, else pairs of a patient with a class and one without, by the class that
    has fewest, and no patient in two pairs.
    """
    number = len(fold.labels)
    patients = np.arange(number) if fold.patients is None else np.asarray(fold.patients)
    total = len(np.unique(patients))
    if score.counts_records:
        return total
    labels = np.asarray(fold.labels)
    present = present_classes(labels, task)
    absent = ~present if task == "multiclass" else np.equal(labels, 0)
    sides = [_of_patients(side, patients) for side in (present, absent)]
    if score.average == "micro":
        sides = [np.atleast_2d(side.any(axis=1)).T for side in sides]
    pairs = np.minimum(sides[0].sum(axis=0), sides[1].sum(axis=0))
    pairs = pairs[pairs > 0]
    return int(min(pairs.min() * len(pairs), total // 2)) if len(pairs) else 1


def nearest(present: np.ndarray) -> float:
    """Return how near a score may come to 0 and 1 on the logit scale.

    It is a quarter of a pair of a positive and a negative.  ``present`` as for ``draw``.
    """
    positive = present.sum(axis=0)
    pairs = positive * (len(present) - positive)
    return float(np.mean(0.25 / pairs[pairs > 0])) if pairs.any() else 0.25 / len(present)


def _means(
    name: str, score: Score, tests: Sequence[Predicted], task: str, drawn: dict[int, Draws]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean score over folds of each seed, (seeds,), and of each resample over folds and seeds,
    (n,).
    """
    places = {(test.seed, test.fold): test for test in tests}
    seeds = sorted({test.seed for test in tests})
    if len(places) != len(tests) or len(tests) != len(seeds) * len(drawn):
        raise ECGError(
            "an interval needs one prediction of every fold by every seed, the same folds for "
            "both models"
        )
    values = {
        place: compute_scores(test.predictions, test.labels, {name: score}, task)[name]
        for place, test in places.items()
    }
    whole = [np.mean([values[seed, fold] for fold in drawn]) for seed in seeds]
    resampled = [
        resampled_scores(name, score, test, task, drawn[test.fold].records) for test in tests
    ]
    return np.array(whole), np.sum(resampled, axis=0) / len(tests)


def _variance(
    resampled: np.ndarray, by_seed: list[np.ndarray], draws: list[Draws]
) -> tuple[float, float]:
    """Variance of the mean score, and its degrees of freedom (Satterthwaite): that over
    resamples, divided among strata, and, with several seeds, that of each mean over seeds.
    """
    n, total = len(resampled), float(np.var(resampled))
    parts: list[float] = []
    degrees: list[int] = []
    for fold in draws:
        counts = fold.patients - fold.patients.mean(axis=0)
        influence = (resampled - resampled.mean()) @ counts / n
        noise = total * np.mean(counts**2, axis=0) / n  # that of an influence from n resamples
        for stratum in fold.strata:
            if len(stratum) > 1:
                parts.append(max(np.sum(influence[stratum] ** 2 - noise[stratum]), 0.0))
                degrees.append(len(stratum) - 1)
    share = np.array(parts)
    share = total * share / share.sum() if share.sum() else np.full(len(parts), total / len(parts))
    for values in by_seed:
        if len(values) > 1:
            share = np.append(share, np.var(values, ddof=1) / len(values))
            degrees.append(len(values) - 1)
    variance = float(share.sum())
    if not variance:
        return variance, FEWEST
    return variance, max(FEWEST, variance**2 / np.sum(share**2 / np.array(degrees)))

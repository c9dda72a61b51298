"""Thresholds that turn 24 class scores into outputs, searched for the best Challenge score.

A class is output where its score is at least its threshold (``score >= threshold``), here and in
everything that reads ``thresholds.json``.  ``search_published`` is the published search,
``search_ascent`` a thorough one, ``search_single`` looks for one threshold for all classes.
``no_search`` stands beside them: outputs of the highest expected score
(util/scoring/decoding.py), which need no threshold.

The searches rest on one identity.  With V = L W, a record's part of the Challenge score's
numerator s(O) is sum(V_i * O_i) / max(|L_i or O_i|, 1).  While the other classes stay, switching
one class on adds a fixed number to each record's part: its gain.  So s(O) at every threshold of a
class is a cumulative sum of gains from the highest score down, and no candidate needs scoring
anew.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from util.challenge import ABBREVIATIONS, CLASSES, WEIGHTS
from util.errors import ECGError
from util.scoring.decoding import expected_outputs
from util.scoring.scores import challenge_score, challenge_sums, check_scores, row_sum

PUBLISHED_CANDIDATES = (0.1, 0.2, 0.3, 0.4, 0.5)
TIE = 1e-12  # Challenge scores nearer than this are equal but for rounding
RULES = {
    1: "score >= threshold",
    2: "highest expected Challenge score",
}  # by version of thresholds.json


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The result of a search, or of decoding by expected score, which has no thresholds."""

    thresholds: (
        np.ndarray | None
    )  # float64 (24,); a class is output where its score is at least this
    score: float  # the Challenge score of these thresholds on the search set
    n_records: int  # size of the search set
    method: str  # how they were found, in words
    sweeps: int = 1  # passes over all classes; an ascent's last one changed nothing
    shared: tuple[int, ...] = ()  # the rare classes, if any, that share one threshold

    def decide(self, probabilities) -> np.ndarray:
        """Outputs of these probabilities, bool (records, 24)."""
        if self.thresholds is None:
            return expected_outputs(probabilities)
        return apply_thresholds(probabilities, self.thresholds)


def apply_thresholds(scores, thresholds) -> np.ndarray:
    """Outputs, bool (records, classes): ``score >= threshold``, compared in float64."""
    return np.asarray(scores, np.float64) >= np.asarray(thresholds, np.float64)


def score_curve(labels, scores, thresholds, candidates) -> np.ndarray:
    """The Challenge score as a function of each class's own threshold while the other classes
    keep theirs.

    Args:
        labels, scores: as for ``search_ascent``.
        thresholds: (24,), held for the other classes.
        candidates: rising, (K,) the same for every class or (K, 24).

    Returns:
        float64 (K, 24): entry [k, c] is the score with class c at ``candidates[k]`` or
        ``candidates[k, c]``.
    """
    problem = _Problem(labels, scores)
    candidates = np.asarray(candidates, np.float64)
    if np.any(np.diff(candidates, axis=0) < 0):
        raise ValueError("candidates must rise")
    columns = np.broadcast_to(candidates.T, (len(CLASSES), len(candidates)))
    state = _State(problem, thresholds)
    return np.stack(
        [state.curve(_Coordinate(problem, [c], column)) for c, column in enumerate(columns)], axis=1
    )


def search_published(labels, scores) -> Thresholds:
    """The published search: thresholds 0.1, 0.2 ... 0.5 for one class at a time while all the
    others stay at 0.1, in one pass; of equally good thresholds the lowest.  Arguments as for
    ``search_ascent``.
    """
    curves = score_curve(
        labels, scores, np.full(len(CLASSES), PUBLISHED_CANDIDATES[0]), PUBLISHED_CANDIDATES
    )
    best = np.argmax(curves >= curves.max(axis=0) - TIE, axis=0)
    thresholds = np.array(PUBLISHED_CANDIDATES)[best]
    score = challenge_score(labels, apply_thresholds(scores, thresholds))
    return Thresholds(thresholds, score, len(labels), "published")


def search_ascent(labels, scores, starts=None, max_candidates=512, min_positives=0) -> Thresholds:
    """Coordinate ascent: set one class after the other to its best threshold until no single
    change helps.

    Args:
        labels: bool (records, 24).
        scores: float (records, 24), no NaN.
        starts: thresholds to start from, each (24,); by default those of ``default_starts``.  The
            published search's result is always one more, so that the ascent never ends below it.
        max_candidates: most thresholds tried for a class, see ``candidate_thresholds``; None: no
            limit.
        min_positives: two or more classes with fewer positive records than this share one
            threshold, since so few records say little about each.  Should that end below the
            published search, the rare classes keep the published thresholds instead and only the
            others are searched.

    Returns:
        the best of all starts, whatever the order of the records; the same input gives the same
        result.
    """
    problem = _Problem(labels, scores)
    rare = np.flatnonzero(problem.labels.sum(axis=0) < min_positives)
    shared = rare if len(rare) > 1 else rare[:0]
    groups = [[c] for c in range(len(CLASSES)) if c not in shared]
    single = len(groups)
    if len(shared):
        groups.append(shared)
    coordinates = [
        _Coordinate(problem, group, candidate_thresholds(problem.scores[group], max_candidates))
        for group in groups
    ]
    published = search_published(labels, scores)
    starts = np.array(
        [published.thresholds, *(default_starts(labels, scores) if starts is None else starts)]
    )
    if len(shared):
        starts[:, shared] = np.median(starts[:, shared], axis=1, keepdims=True)
    ends = [_climb(problem, coordinates, start) for start in starts]
    best = max(ends, key=lambda end: round(end.score, 12))  # the first of equals
    if best.score < published.score:
        best = _climb(problem, coordinates[:single], published.thresholds)
        return replace(best, method="ascent, rare classes as published")
    return replace(best, shared=tuple(shared.tolist()))


def search_single(labels, scores) -> Thresholds:
    """One threshold for all classes, the best of all useful ones, the lowest of equals.
    Arguments as for ``search_ascent``.
    """
    problem = _Problem(labels, scores)
    together = _Coordinate(problem, range(len(CLASSES)), candidate_thresholds(problem.scores, None))
    return replace(
        _climb(problem, [together], np.full(len(CLASSES), 0.5)), method="one for all classes"
    )


def no_search(labels, scores) -> Thresholds:
    """Decoding by expected score, scored on these records.  Arguments as for ``search_ascent``;
    the scores must be probabilities.
    """
    labels, scores = check_scores(labels, scores)
    return Thresholds(
        None,
        challenge_score(labels, expected_outputs(scores)),
        len(labels),
        "expected score",
        sweeps=0,
    )


def default_starts(labels, scores) -> list[np.ndarray]:
    """Where the ascent starts, each (24,): 0.5 for all; thresholds that output each class as
    often as it is present; and four that output it as often as present times a random factor
    between 1/3 and 3.
    """
    share = np.mean(labels, axis=0)
    factors = 3.0 ** np.random.default_rng(0).uniform(-1, 1, (4, len(CLASSES)))
    counts = np.round(np.vstack([share, factors * share]) * len(scores)).astype(int)
    rising = np.sort(np.asarray(scores, np.float64), axis=0)
    return [
        np.full(len(CLASSES), 0.5),
        *np.take_along_axis(rising, -np.clip(counts, 1, len(scores)), axis=0),
    ]


def candidate_thresholds(scores, max_candidates=512) -> np.ndarray:
    """Useful thresholds for these scores, rising, float64, (at most max_candidates,).

    They lie midway between neighbouring distinct scores, with one below them all (always on) and
    one above (never on).  Where that makes too many, half of those kept are the highest, where a
    rare class is decided, and the others are taken at even steps from the rest.
    """
    values = np.unique(np.asarray(scores, np.float64))
    middle = values[:-1] + np.diff(values) / 2
    middle = np.where(
        middle > values[:-1], middle, values[1:]
    )  # doubles with no number between them
    never = np.nextafter(
        max(values[-1], 1.0), np.inf
    )  # above 1, too, where later probabilities may lie
    every = np.concatenate([[min(values[0], 0.0)], middle, [never]])
    if max_candidates is None or len(every) <= max_candidates:
        return every
    if max_candidates < 2:
        raise ValueError(
            f"max_candidates is {max_candidates}, but always on and never on already make 2"
        )
    top = max_candidates // 2
    steps = np.linspace(0, len(every) - top - 1, max_candidates - top).round().astype(int)
    return np.concatenate([every[steps], every[-top:]])


def save_thresholds(path, found: Thresholds):
    """Write ``thresholds.json``: readable, one entry a class with its code and abbreviation."""
    version = 2 if found.thresholds is None else 1
    classes = [{"code": code, "abbreviation": name} for code, name in zip(CLASSES, ABBREVIATIONS)]
    for c, entry in enumerate(classes) if version == 1 else ():
        entry |= {"threshold": float(found.thresholds[c]), "shared": c in found.shared}
    content = {
        "version": version,
        "rule": RULES[version],
        "method": found.method,
        "sweeps": found.sweeps,
        "challenge_score": found.score,
        "n_records": found.n_records,
        "classes": classes,
    }
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_thresholds(path) -> Thresholds:
    """Read what ``save_thresholds`` wrote.

    Raises:
        ECGError: the file is missing, is not of this kind or version, or its classes or numbers
            are wrong.
    """
    cure = "make it with experiments/threshold_search.py"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        version, classes = content["version"], content["classes"]
        if version not in RULES:
            raise ValueError(
                f"its version is {version}, this code reads {' and '.join(map(str, RULES))}"
            )
        if tuple(entry["code"] for entry in classes) != CLASSES:
            raise ValueError("its classes are not the Challenge's 24 in the Challenge's order")
        thresholds, shared = _read_thresholds(classes) if version == 1 else (None, ())
        return Thresholds(
            thresholds,
            float(content["challenge_score"]),
            int(content["n_records"]),
            content["method"],
            int(content["sweeps"]),
            shared,
        )
    except OSError as error:
        raise ECGError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ECGError(f"{path}: not a usable thresholds file: {reason}; {cure}") from None


def _read_thresholds(classes):
    """Thresholds (24,), and which classes share one, of the entries of a file."""
    thresholds = np.array([float(entry["threshold"]) for entry in classes])
    if not np.all(np.isfinite(thresholds)):
        raise ValueError(
            f"threshold of {ABBREVIATIONS[np.argmin(np.isfinite(thresholds))]} is not a number"
        )
    return thresholds, tuple(c for c, entry in enumerate(classes) if entry["shared"])


class _Problem:
    """Labels and scores of the search set with all that no threshold changes.

    Attributes:
        labels: bool (records, 24).
        scores: float64 (24, records).
        credit: L W, (24, records).
        free: bool (24, records), where an output of the class would enlarge the union of labels
            and outputs.
        inactive, perfect: values of s(O) that score 0 and 1.
    """

    def __init__(self, labels, scores):
        self.labels, scores = check_scores(labels, scores)
        _, self.inactive, self.perfect = challenge_sums(self.labels, self.labels)
        self.scores = np.ascontiguousarray(scores.T, np.float64)
        self.credit = np.ascontiguousarray((self.labels.astype(float) @ WEIGHTS).T)
        self.free = np.ascontiguousarray(~self.labels.T)

    def to_score(self, numerators):
        """Challenge scores of values of s(O)."""
        span = self.perfect - self.inactive
        return (numerators - self.inactive) / span if span else np.zeros_like(numerators)


class _Coordinate:
    """One class, or several that move together, along rising candidate thresholds (K,).

    A record's classes switch on one after the other, from its highest score down; rows are in
    that order.

    Attributes:
        passed: (g * records,), how many candidates each score is at least.
        credit, growth: (g, records), cumulative over the record's classes switched on so far: the
            credit, and what the union of labels and outputs has grown by.
    """

    def __init__(self, problem, classes, candidates):
        self.classes, self.candidates = np.asarray(classes), candidates
        scores = problem.scores[self.classes]
        falling = np.argsort(-scores, axis=0)
        self.passed = np.searchsorted(
            candidates, np.take_along_axis(scores, falling, axis=0).ravel(), side="right"
        )
        self.credit = np.take_along_axis(problem.credit[self.classes], falling, axis=0).cumsum(
            axis=0
        )
        self.growth = np.take_along_axis(problem.free[self.classes], falling, axis=0).cumsum(
            axis=0, dtype=float
        )


class _State:
    """Thresholds (24,) and outputs, bool (24, records), with the parts of s(O) at them, kept up
    to date while single coordinates move: ``credit`` and ``union``, (records,), are sum(V_i *
    O_i) and |L_i or O_i|.
    """

    def __init__(self, problem, thresholds):
        self.problem = problem
        self.thresholds = np.array(thresholds, np.float64)
        self.outputs = problem.scores >= self.thresholds[:, None]
        self.refresh()

    def refresh(self):
        """Compute the parts anew, so that rounding does not pile up."""
        self.credit = np.einsum("cn,cn->n", self.problem.credit, self.outputs)
        self.union = row_sum(self.problem.labels | self.outputs.T)

    def curve(self, coordinate) -> np.ndarray:
        """The Challenge score at each of the coordinate's candidates, (K,), the other classes
        held.
        """
        own_credit, own_growth = self._parts(coordinate.classes)
        credit, union = self.credit - own_credit, self.union - own_growth
        off = credit / np.maximum(union, 1)
        on = (credit + coordinate.credit) / np.maximum(union + coordinate.growth, 1)
        gains = np.diff(on, axis=0, prepend=off[None])
        by_place = np.bincount(
            coordinate.passed, gains.ravel(), minlength=len(coordinate.candidates) + 1
        )
        return self.problem.to_score(off.sum() + by_place[:0:-1].cumsum()[::-1])

    def improve(self, coordinate) -> bool:
        """Move the coordinate to its best candidate, the lowest of equals, if that is better than
        where it is.
        """
        curve = self.curve(coordinate)
        best = np.argmax(curve >= curve.max() - TIE)
        present = self.problem.to_score(np.sum(self.credit / np.maximum(self.union, 1)))
        if curve[best] <= present + TIE:
            return False
        classes = coordinate.classes
        old_credit, old_growth = self._parts(classes)
        self.thresholds[classes] = coordinate.candidates[best]
        self.outputs[classes] = self.problem.scores[classes] >= coordinate.candidates[best]
        new_credit, new_growth = self._parts(classes)
        self.credit = self.credit - old_credit + new_credit
        self.union = self.union - old_growth + new_growth
        return True

    def _parts(self, classes):
        """What the outputs of these classes contribute to ``credit`` and ``union``."""
        outputs = self.outputs[classes]
        return (
            np.einsum("cn,cn->n", self.problem.credit[classes], outputs),
            np.sum(outputs & self.problem.free[classes], axis=0),
        )


def _climb(problem, coordinates, start) -> Thresholds:
    """Sweep over the coordinates until none improves."""
    state, sweeps, moved = _State(problem, start), 0, True
    while moved:
        state.refresh()
        moved = sum(map(state.improve, coordinates))  # not any(), which would stop at the first
        sweeps += 1
    score = challenge_score(problem.labels, state.outputs.T)
    return Thresholds(state.thresholds, score, len(problem.labels), "ascent", sweeps)

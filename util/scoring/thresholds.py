"""Thresholds that turn 24 class scores into outputs, searched for the best Challenge score.

A class is output where its score is at least its threshold (``score >= threshold``), here and in
everything that reads ``thresholds.json``.  ``search_published`` is the published search,
``search_ascent`` a thorough one, ``search_single`` looks for one threshold for all classes.
``no_search`` is the alternative: outputs decoded by expected score (util/scoring/decoding.py),
which need no threshold.

The searches rest on one identity.  With V = L W, a record's part of the Challenge score's
numerator s(O) is sum(V_i * O_i) / max(|L_i or O_i|, 1).  While the other classes stay, switching
one class on adds a fixed number to each record's part: its gain.  So s(O) at every threshold of a
class is a cumulative sum of gains from the highest score down, and no candidate needs scoring
anew.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from util.challenge import ABBREVIATIONS, CLASSES, WEIGHTS
from util.errors import ECGError
from util.files import write_text
from util.scoring.decoding import expected_outputs
from util.scoring.scores import challenge_score, challenge_sums, check_scores, row_sum

PUBLISHED_CANDIDATES = (0.1, 0.2, 0.3, 0.4, 0.5)
TIE = 1e-12  # Challenge scores nearer than this are equal but for rounding
# by version of thresholds.json
RULES = {
    1: "score >= threshold",
    2: "decoded by expected Challenge score",
    3: "score >= threshold, each class by itself",
}


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The result of a search, or of decoding by expected score, which has no thresholds.

    Attributes:
        thresholds: float64 (classes,); a class is output where its score is at least this.
        score: the Challenge score of these thresholds on the search set; NaN where each class was
            looked at by itself.
        n_records: size of the search set.
        method: how they were found, in words.
        sweeps: passes over all classes; an ascent's last one changed nothing.
        shared: the rare classes, if any, that share one threshold.
        codes: of the classes.
        names: of the classes.
    """

    thresholds: np.ndarray | None
    score: float
    n_records: int
    method: str
    sweeps: int = 1
    shared: tuple[int, ...] = ()
    codes: tuple[str, ...] = CLASSES
    names: tuple[str, ...] = ABBREVIATIONS

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the outputs of these probabilities, bool (records, classes)."""
        if self.thresholds is None:
            return expected_outputs(probabilities)
        return apply_thresholds(probabilities, self.thresholds)


def apply_thresholds(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return outputs, bool (records, classes): ``score >= threshold``, compared in float64."""
    return np.asarray(scores, np.float64) >= np.asarray(thresholds, np.float64)


def score_curve(
    labels: np.ndarray,
    scores: np.ndarray,
    thresholds: np.ndarray,
    candidates: np.ndarray | Sequence[float],
) -> np.ndarray:
    """Return the Challenge score as a function of each class's threshold, the others held.

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
        [
            state.curve(_Coordinate(problem, np.array([c]), column))
            for c, column in enumerate(columns)
        ],
        axis=1,
    )


def search_published(labels: np.ndarray, scores: np.ndarray) -> Thresholds:
    """Run the published search: thresholds 0.1, 0.2 ... 0.5 for one class at a time.

    All the others stay at 0.1, and there is one pass; of equally good thresholds the lowest is
    taken.  Arguments as for ``search_ascent``.
    """
    curves = score_curve(
        labels, scores, np.full(len(CLASSES), PUBLISHED_CANDIDATES[0]), PUBLISHED_CANDIDATES
    )
    best = np.argmax(curves >= curves.max(axis=0) - TIE, axis=0)
    thresholds = np.array(PUBLISHED_CANDIDATES)[best]
    score = challenge_score(labels, apply_thresholds(scores, thresholds))
    return Thresholds(thresholds, score, len(labels), "published")


def search_ascent(
    labels: np.ndarray,
    scores: np.ndarray,
    starts: Sequence[np.ndarray] | None = None,
    max_candidates: int | None = 512,
    min_positives: int = 0,
) -> Thresholds:
    """Set one class after the other to its best threshold until no single change helps.

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
    groups = [np.array([c]) for c in range(len(CLASSES)) if c not in shared]
    single = len(groups)
    if len(shared):
        groups.append(shared)
    coordinates = [
        _Coordinate(problem, group, candidate_thresholds(problem.scores[group], max_candidates))
        for group in groups
    ]
    published = search_published(labels, scores)
    first = default_starts(labels, scores) if starts is None else starts
    beginnings = np.array([published.thresholds, *first])
    if len(shared):
        beginnings[:, shared] = np.median(beginnings[:, shared], axis=1, keepdims=True)
    ends = [_climb(problem, coordinates, start) for start in beginnings]
    best = max(ends, key=lambda end: round(end.score, 12))  # the first of equals
    if best.score < published.score:
        best = _climb(problem, coordinates[:single], np.asarray(published.thresholds))
        return replace(best, method="ascent, rare classes as published")
    return replace(best, shared=tuple(shared.tolist()))


def search_single(labels: np.ndarray, scores: np.ndarray) -> Thresholds:
    """Search one threshold for all classes, the best of all useful ones, the lowest of equals.

    Arguments as for ``search_ascent``.
    """
    problem = _Problem(labels, scores)
    every_class = np.arange(len(CLASSES))
    together = _Coordinate(problem, every_class, candidate_thresholds(problem.scores, None))
    best = _climb(problem, [together], np.full(len(CLASSES), 0.5))
    return replace(best, method="one for all classes")


def no_search(labels: np.ndarray, scores: np.ndarray) -> Thresholds:
    """Decode by expected score, and score that on these records.

    Arguments as for ``search_ascent``; the scores must be probabilities.
    """
    labels, scores = check_scores(labels, scores)
    score = challenge_score(labels, expected_outputs(scores))
    return Thresholds(None, score, len(labels), "expected score", sweeps=0)


def default_starts(labels: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Return where the ascent starts, each (24,).

    The starts are 0.5 for all; thresholds that output each class as often as it is present; and
    four that output it as often as present times a random factor between 1/3 and 3.
    """
    share = np.mean(labels, axis=0)
    factors = 3.0 ** np.random.default_rng(0).uniform(-1, 1, (4, len(CLASSES)))
    counts = np.round(np.vstack([share, factors * share]) * len(scores)).astype(int)
    rising = np.sort(np.asarray(scores, np.float64), axis=0)
    return [
        np.full(len(CLASSES), 0.5),
        *np.take_along_axis(rising, -np.clip(counts, 1, len(scores)), axis=0),
    ]


def candidate_thresholds(scores: np.ndarray, max_candidates: int | None = 512) -> np.ndarray:
    """Return useful thresholds for these scores, rising, float64, (at most max_candidates,).

    They lie midway between neighbouring distinct scores, with one below them all (always on) and
    one above (never on).  Where that makes too many, half of those kept are the highest, where a
    rare class is decided, and the others are taken at even steps from the rest.
    """
    values = np.unique(np.asarray(scores, np.float64))
    middle = values[:-1] + np.diff(values) / 2
    # doubles with no number between them
    middle = np.where(middle > values[:-1], middle, values[1:])
    # above 1, too, where later probabilities may lie
    never = np.nextafter(max(values[-1], 1.0), np.inf)
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


def save_thresholds(path: str | Path, result: Thresholds) -> None:
    """Write ``thresholds.json``: readable, one entry a class with its code and abbreviation."""
    classes: list[dict[str, Any]] = [
        {"code": code, "abbreviation": name} for code, name in zip(result.codes, result.names)
    ]
    version = 2
    if result.thresholds is not None:
        version = 3 if math.isnan(result.score) else 1
        for c, entry in enumerate(classes):
            entry |= {"threshold": float(result.thresholds[c]), "shared": c in result.shared}
    content = {
        "version": version,
        "rule": RULES[version],
        "method": result.method,
        "sweeps": result.sweeps,
        "challenge_score": None if math.isnan(result.score) else result.score,
        "n_records": result.n_records,
        "classes": classes,
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def load_thresholds(path: str | Path) -> Thresholds:
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
        codes = tuple(entry["code"] for entry in classes)
        if version != 3 and codes != CLASSES:
            raise ValueError("its classes are not the Challenge's 24 in the Challenge's order")
        thresholds, shared = _read_thresholds(classes) if version != 2 else (None, ())
        return Thresholds(
            thresholds,
            math.nan if version == 3 else float(content["challenge_score"]),
            int(content["n_records"]),
            content["method"],
            int(content["sweeps"]),
            shared,
            codes,
            tuple(entry["abbreviation"] for entry in classes),
        )
    except OSError as error:
        raise ECGError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ECGError(f"{path}: not a usable thresholds file: {reason}; {cure}") from None


def _read_thresholds(classes: list[dict[str, Any]]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Thresholds (classes,), and which classes share one, of the entries of a file."""
    thresholds = np.array([float(entry["threshold"]) for entry in classes])
    finite = np.isfinite(thresholds)
    if not finite.all():
        name = classes[finite.argmin()]["abbreviation"]
        raise ValueError(f"threshold of {name} is not a number")
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

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        self.labels, scores = check_scores(labels, scores)
        _, self.inactive, self.perfect = challenge_sums(self.labels, self.labels)
        self.scores = np.ascontiguousarray(scores.T, np.float64)
        self.credit = np.ascontiguousarray((self.labels.astype(float) @ WEIGHTS).T)
        self.free = np.ascontiguousarray(~self.labels.T)

    def to_score(self, numerators: np.ndarray) -> np.ndarray:
        """Return the Challenge scores of values of s(O)."""
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

    def __init__(self, problem: _Problem, classes: np.ndarray, candidates: np.ndarray) -> None:
        self.classes, self.candidates = classes, candidates
        scores = problem.scores[classes]
        falling = np.argsort(-scores, axis=0)

        def ordered(values: np.ndarray) -> np.ndarray:
            return np.take_along_axis(values, falling, axis=0)

        self.passed = np.searchsorted(candidates, ordered(scores).ravel(), side="right")
        self.credit = ordered(problem.credit[classes]).cumsum(axis=0)
        self.growth = ordered(problem.free[classes]).cumsum(axis=0, dtype=float)


class _State:
    """Thresholds (24,) and outputs, bool (24, records), with the parts of s(O) at them, kept up
    to date while single coordinates move: ``credit`` and ``union``, (records,), are sum(V_i *
    O_i) and |L_i or O_i|.
    """

    def __init__(self, problem: _Problem, thresholds: np.ndarray) -> None:
        self.problem = problem
        self.thresholds = np.array(thresholds, np.float64)
        self.outputs = problem.scores >= self.thresholds[:, None]
        self.refresh()

    def refresh(self) -> None:
        """Compute the parts anew, so that rounding does not pile up."""
        self.credit = np.einsum("cn,cn->n", self.problem.credit, self.outputs)
        self.union = row_sum(self.problem.labels | self.outputs.T)

    def curve(self, coordinate: _Coordinate) -> np.ndarray:
        """Return the Challenge score at each of the coordinate's candidates, (K,).

        The other classes are held.
        """
        old_credit, old_growth = self._parts(coordinate.classes)
        credit, union = self.credit - old_credit, self.union - old_growth
        off = credit / np.maximum(union, 1)
        on = (credit + coordinate.credit) / np.maximum(union + coordinate.growth, 1)
        gains = np.diff(on, axis=0, prepend=off[None])
        by_place = np.bincount(
            coordinate.passed, gains.ravel(), minlength=len(coordinate.candidates) + 1
        )
        return self.problem.to_score(off.sum() + by_place[:0:-1].cumsum()[::-1])

    def improve(self, coordinate: _Coordinate) -> bool:
        """Move the coordinate to its best candidate, the lowest of equals, if that is better.

        Returns:
            Whether it moved.
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

    def _parts(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the outputs of these classes contribute to ``credit`` and ``union``."""
        outputs = self.outputs[classes]
        return (
            np.einsum("cn,cn->n", self.problem.credit[classes], outputs),
            np.sum(outputs & self.problem.free[classes], axis=0),
        )


def _climb(problem: _Problem, coordinates: list[_Coordinate], start: np.ndarray) -> Thresholds:
    """Sweep over the coordinates until none improves."""
    state, sweeps, moves = _State(problem, start), 0, 1
    while moves:
        state.refresh()
        moves = sum(map(state.improve, coordinates))  # not any(), which would stop at the first
        sweeps += 1
    score = challenge_score(problem.labels, state.outputs.T)
    return Thresholds(state.thresholds, score, len(problem.labels), "ascent", sweeps)

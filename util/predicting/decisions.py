"""Which classes a recording is said to have: by thresholds, or by their expected score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from util.challenge import CLASSES
from util.console import note
from util.errors import ConfigError
from util.evaluation.trained import Trained
from util.scoring.decoding import expected_outputs
from util.scoring.operating_points import kept_rule, wanted_sensitivity
from util.scoring.thresholds import Thresholds, apply_thresholds

DEFAULT = "f1"
HALF, EXPECTED = "0.5", "expected"
RULES = f"youden, f1, sensitivity=S such as sensitivity=0.9, {EXPECTED} or {HALF}"
NAMES = {"youden": "Youden's index", "f1": "F1"}
FEWEST = 5  # positive records that choose a threshold worth its name
OF_WEIGHTS = "on the selection fold"


@dataclass(frozen=True)
class Decision:
    """How probabilities become answers.

    Attributes:
        outputs: of probabilities (records, classes), bool of the same shape.
        words: how, for people.
        thresholds: of each class, where there are any.
        unsure: numbers of the classes whose thresholds rest on fewer than ``FEWEST`` positive
            records.
    """

    outputs: Callable[[np.ndarray], np.ndarray]
    words: str
    thresholds: np.ndarray | None = None
    unsure: frozenset[int] = frozenset()


def by_thresholds(thresholds: np.ndarray, words: str) -> Decision:
    """Return the decision for each class whose probability is at least its threshold."""
    return Decision(lambda p: apply_thresholds(p, thresholds), words, thresholds)


def check_rule(rule: str | None) -> None:
    """Raise a ConfigError where there is no such rule."""
    if rule in (None, HALF, EXPECTED):
        return
    try:
        wanted_sensitivity(str(rule))
    except ConfigError:
        raise ConfigError(f"--decide {rule}: there is no such rule; known: {RULES}") from None


def decisions(
    ensemble: Sequence[Trained], rule: str | None, searched: Thresholds | None
) -> tuple[Decision, Decision]:
    """Return how people are answered (page, summary), and how the Challenge's CSV is.

    They are the same, unless a file of thresholds that decodes by expected score is given: that
    answers the CSV alone.

    Args:
        ensemble: the weights.
        rule: of --decide; None for the file's thresholds, or else ``DEFAULT``.
        searched: of a file of thresholds, if one is given.

    Raises:
        ConfigError: these weights' classes cannot be decided so.
    """
    first = ensemble[0]
    check_rule(rule)
    if first.task != "multilabel":
        if rule or searched:
            raise ConfigError(
                f"--{'decide' if rule else 'thresholds'} is for classes that may hold together "
                "(own ones or the Challenge's 24 classes, multi-label), which these weights "
                f"({first.task}) do not predict; leave it out"
            )
        alone = _without_thresholds(first.task)
        return alone, alone
    if searched and searched.codes != first.codes:
        raise ConfigError(
            f"--thresholds are of {len(searched.codes)} classes ({', '.join(searched.names[:3])} "
            "...), which these weights do not predict; search them with these weights"
        )
    if rule == EXPECTED and first.codes != CLASSES:
        raise ConfigError(
            f"--decide {EXPECTED} is for the Challenge's 24 classes, which these weights do not "
            "predict; take f1, youden or sensitivity=S"
        )
    in_file = searched and Decision(
        searched.decide, f"by {searched.method} (--thresholds)", searched.thresholds
    )
    if in_file and in_file.thresholds is not None and rule is None:
        return in_file, in_file
    decision = _of_rule(ensemble, rule or DEFAULT, asked=rule is not None)
    return decision, in_file or decision


def _without_thresholds(task: str) -> Decision:
    if task == "regression":
        return Decision(lambda p: np.ones_like(p, bool), "predicted numbers")
    return Decision(
        lambda p: np.eye(p.shape[1], dtype=bool)[p.argmax(axis=1)], "for the likeliest class"
    )


def _of_rule(ensemble: Sequence[Trained], rule: str, *, asked: bool) -> Decision:
    """The decision that a rule of --decide names."""
    classes = len(ensemble[0].classes)
    if rule == EXPECTED:
        return Decision(expected_outputs, "by highest expected Challenge score")
    if rule == HALF:
        return by_thresholds(np.full(classes, 0.5), "at 0.5 for every class")
    kept = [kept_rule(rule, trained.thresholds) for trained in ensemble]
    without = [trained.path.name for trained, found in zip(ensemble, kept) if found is None]
    if without:
        cure = "train anew, or give --thresholds of experiments/threshold_search.py"
        silent = "" if asked else f", or --decide {HALF} to say so"
        note(
            f"thresholds: {', '.join(without)} keeps none of its selection fold by {rule}, so "
            f"every class is decided at 0.5; {cure}{silent}"
        )
        return by_thresholds(np.full(classes, 0.5), "at 0.5, as the weights keep no thresholds")
    of_each = [trained.thresholds[str(found)] for trained, found in zip(ensemble, kept)]
    words = f"by {NAMES.get(str(kept[0]), kept[0])} {OF_WEIGHTS}"
    if len(ensemble) > 1:
        words += f", median of {len(ensemble)} weights"
    found = by_thresholds(np.median(of_each, axis=0), words)
    return replace(found, unsure=_unsure(ensemble))


def _unsure(ensemble: Sequence[Trained]) -> frozenset[int]:
    """The classes that too few records of the selection folds have, which is said."""
    counts = [trained.positives for trained in ensemble if trained.positives]
    if not counts:
        return frozenset()
    together = np.sum(counts, axis=0)
    few = np.flatnonzero(together < FEWEST)
    if len(few):
        names = ", ".join(f"{ensemble[0].classes[c]} ({together[c]})" for c in few)
        note(
            f"thresholds that fewer than {FEWEST} positive records chose, which say little: {names}"
        )
    return frozenset(few.tolist())

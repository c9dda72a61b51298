"""Intervals of a comparison, and differences: of each encoder to random weights or to training
from scratch, and to the first encoder.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.evaluation.candidates import RANDOM, SCRATCH
from experiments.evaluation.cells import FROZEN, KEY, Settings
from experiments.evaluation.runs import Planned, read_results, score_of, tested, with_enough
from util.scoring.intervals import Estimate, Predicted, estimate, holm
from util.scoring.predictions import Predictions
from util.scoring.scores import parse_scores

GROUP = ["task", "mode", "labels"]
Tests = dict[tuple[int, int], Predictions]  # by fold and seed


def compare(planned: Sequence[Planned], settings: Settings) -> pd.DataFrame:
    """Return a row for each encoder, task, mode and share of the labels: its score over all
    classes and over those with ten or more positive test records, with 95 % intervals, the spread
    over random weights, and a row more for each difference, with Holm's correction over all.

    Columns: encoder, task, mode, labels, score, against ("" for the score itself), value, low,
    high, value_common, low_common, high_common, spread, p, p_holm.
    """
    groups: dict[tuple, dict[str, Tests]] = {}
    for cell, config in planned:
        group = groups.setdefault((cell.task, cell.mode, cell.labels), {})
        path = tested(cell, config, settings)
        group.setdefault(cell.candidate.name, {})[cell.fold, cell.seed] = Predictions.load(path)
    scores = read_results(settings).set_index(KEY)["score"]
    rows = []
    for (task, mode, labels), by_name in groups.items():
        about = {"task": task, "mode": mode, "labels": labels}
        fold, seed = next(iter(next(iter(by_name.values()))))
        score = scores.loc[(next(iter(by_name)), task, mode, labels, seed, fold)]
        for name, against in _pairs(list(by_name), mode):
            rows.append(
                {"encoder": name, **about, "score": score, "against": against}
                | _row(by_name[name], by_name.get(against), score, settings.bootstrap)
            )
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"].to_numpy())
    return table


def _pairs(names: list[str], mode: str) -> list[tuple[str, str]]:
    """Which scores are shown ("" as the second), and which are compared."""
    reference = RANDOM if mode in FROZEN else SCRATCH
    given = [name for name in names if name not in (RANDOM, SCRATCH)]
    pairs = [(name, "") for name in names]
    pairs += [(name, reference) for name in given if reference in names]
    return pairs + [(name, given[0]) for name in given[1:]]


def _row(tests: Tests, others: Tests | None, score: str, n: int) -> dict[str, float]:
    every = _estimate(tests, others, score, n)
    common = _estimate(_common(tests), others and _common(others), score, n)
    return {
        "value": every.value,
        "low": every.low,
        "high": every.high,
        "value_common": common.value,
        "low_common": common.low,
        "high_common": common.high,
        "spread": np.nan if others else _spread(tests, score),
        "p": every.p,
    }


def _estimate(tests: Tests, others: Tests | None, score: str, n: int) -> Estimate:
    if not tests:
        return Estimate(np.nan, np.nan, np.nan)
    task = next(iter(tests.values())).task
    formula = parse_scores([score], (), task)[score]
    sides = [
        [
            Predicted(one.labels, one.outputs, one.patients, fold, seed)
            for (fold, seed), one in side.items()
        ]
        for side in (tests, others or {})
    ]
    return estimate(score, formula, sides[0], task, sides[1], n=n)


def _common(tests: Tests) -> Tests:
    """The same of the classes with enough positive test records; none where a fold has none."""
    kept = {place: with_enough(one) for place, one in tests.items()}
    return {place: one for place, one in kept.items() if one} if all(kept.values()) else {}


def _spread(tests: Tests, score: str) -> float:
    """The standard deviation, over seeds, of the mean over folds; NaN for a single seed."""
    values = pd.Series({place: score_of(one, score) for place, one in tests.items()})
    means = values.groupby(level=1).mean()
    return float(means.std(ddof=1)) if len(means) > 1 else np.nan

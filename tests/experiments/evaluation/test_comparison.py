"""Which classes are common, which encoders are compared, and how the tables read."""

import numpy as np
import pandas as pd
import pytest

from experiments.evaluation.comparison import _pairs, _spread
from experiments.evaluation.page import differences_of, grid_of
from experiments.evaluation.runs import score_of, with_enough
from experiments.tables.grid import as_latex, as_markdown
from tests.support import made_predictions


def made(labels, task):
    """Predictions at random of these labels."""
    classes = labels.shape[1] if labels.ndim > 1 else int(labels.max()) + 1
    outputs = np.random.default_rng(0).random((len(labels), classes))
    return made_predictions.made(outputs, labels, task=task)


def test_classes_with_ten_positives_count_in_the_second_mean():
    labels = np.zeros((40, 3))
    labels[:10, 0], labels[:9, 1], labels[5:30, 2] = 1, 1, 1
    labels[35:, 2] = np.nan
    common = with_enough(made(labels, task="multilabel"))
    assert common.classes == ("c0", "c2") and common.outputs.shape == (40, 2)
    assert with_enough(made(labels[:, 1:2], task="multilabel")) is None


def test_of_several_classes_one_each_against_all_others():
    labels = np.repeat([0, 1, 2], [20, 12, 9])
    predictions = made(labels, task="multiclass")
    every = with_enough(made(np.repeat([0, 1, 2], [20, 12, 10]), task="multiclass"))
    assert with_enough(predictions).classes == ("c0", "c1")
    assert score_of(every, "AUROC") == pytest.approx(
        score_of(made(np.repeat([0, 1, 2], [20, 12, 10]), task="multiclass"), "AUROC")
    )
    assert with_enough(made(np.zeros((5, 1)), task="regression")) is None


def test_encoders_are_compared_with_random_weights_or_scratch_and_the_first():
    names = ["a", "b", "random", "scratch"]
    assert _pairs(names[:3], "knn")[3:] == [("a", "random"), ("b", "random"), ("b", "a")]
    assert _pairs(["a", "b", "scratch"], "finetune")[3:] == [
        ("a", "scratch"),
        ("b", "scratch"),
        ("b", "a"),
    ]


def test_the_spread_is_over_seeds_of_the_mean_over_folds():
    random, labels = np.random.default_rng(1), np.arange(80).reshape(40, 2) % 3 == 0
    tests = {
        (fold, seed): made_predictions.made(random.random((40, 2)), labels, task="multilabel")
        for fold in range(3)
        for seed in range(2)
    }
    means = [
        np.mean([score_of(tests[fold, seed], "AUROC") for fold in range(3)]) for seed in (0, 1)
    ]
    assert _spread(tests, "AUROC") == pytest.approx(np.std(means, ddof=1))
    assert np.isnan(_spread({place: one for place, one in tests.items() if place[1] == 0}, "AUROC"))


def test_the_tables_read_as_they_should():
    row = {"task": "t_1", "mode": "knn", "labels": 10.0, "score": "AUROC"}
    numbers = {"value": 0.75, "low": 0.7, "high": 0.8, "value_common": 0.7, "spread": np.nan}
    table = pd.DataFrame(
        [
            {"encoder": "a", **row, "against": "", **numbers, "p": np.nan, "p_holm": np.nan},
            {"encoder": "random", **row, "against": "", **numbers, "spread": 0.01},
            {"encoder": "a", **row, "against": "random", **numbers, "p": 0.01, "p_holm": 0.02},
        ]
    )
    grid = grid_of(table)
    assert grid[1:] == [
        ["a", "0.750 (0.700 to 0.800) / 0.700"],
        ["random", "0.750 (0.700 to 0.800) +- 0.010 / 0.700"],
    ]
    lines = differences_of(table[table["against"] != ""])
    assert lines[1] == [
        *("t_1", "10 %", "knn", "a", "random"),
        *("+0.750 (+0.700 to +0.800)", "0.01", "0.02"),
    ]
    assert as_markdown(grid).splitlines()[1] == "|---|---|"
    latex = as_latex(lines)
    assert r"t\_1 & 10 \% & knn" in latex and latex.endswith(r"\end{tabular}")

"""Thresholds of classes and their tables, against brute force and simulated truth."""

import numpy as np
import pytest

from tests.support.made_predictions import made
from util.errors import ConfigError
from util.scoring.operating_points import (
    by_class,
    choose_thresholds,
    kept_rule,
    kept_thresholds,
    wilson,
)


def drawn(n=200, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = (random.random((n, classes)) < 0.3).astype(float)
    p = np.round(1 / (1 + np.exp(-(2 * labels - 1 + random.standard_normal(labels.shape)))), 2)
    labels[random.random(labels.shape) < 0.1] = np.nan
    return labels, p


def confusion(labels, p, threshold):
    known, said = ~np.isnan(labels), p >= threshold
    true = (said & (labels == 1)).sum()
    false = (said & (labels == 0)).sum()
    return true, false, (known & (labels == 1)).sum(), (known & (labels == 0)).sum()


@pytest.mark.parametrize("rule", ["youden", "f1", "sensitivity=0.9"])
def test_no_threshold_does_better_than_the_chosen_one(rule):
    labels, p = drawn()

    def quality(c, threshold):
        true, false, positive, negative = confusion(labels[:, c], p[:, c], threshold)
        if rule == "f1":
            return 2 * true / (true + false + positive)
        if rule == "youden":
            return true / positive - false / negative
        return -false if true / positive >= 0.9 else -np.inf

    for c, threshold in enumerate(choose_thresholds(labels, p, rule)):
        best = max(quality(c, candidate) for candidate in np.arange(0.005, 1, 0.01))
        assert quality(c, threshold) == pytest.approx(best)


def test_a_class_without_both_sides_has_no_choice():
    labels = np.array([[1.0, 0, np.nan], [1, 0, np.nan]])
    assert choose_thresholds(labels, np.full((2, 3), 0.3), "youden").tolist() == [0.5] * 3
    with pytest.raises(ConfigError, match="no rule 'best'.*youden, f1"):
        choose_thresholds(labels, np.full((2, 3), 0.3), "best")


def test_wilson_is_the_published_example():
    low, high = wilson(np.array([81]), np.array([263]))  # Newcombe 1998, table I: .2553 to .3662
    assert (low[0], high[0]) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_the_table_counts_known_records_alone():
    labels, p = drawn()
    table = by_class(made(p, labels, classes=("a", "b", "c")), p >= 0.5)
    for c in range(3):
        true, false, positive, negative = confusion(labels[:, c], p[:, c], 0.5)
        row = table.iloc[c]
        assert (row["records"], row["positive"]) == (positive + negative, positive)
        assert row["sensitivity"] == true / positive
        assert row["specificity"] == 1 - false / negative
        assert row["precision"] == true / (true + false)


def test_what_weights_keep_is_what_each_rule_chooses():
    labels, p = drawn()
    kept = kept_thresholds(made(p, labels))
    for rule in ("youden", "f1", "sensitivity=0.50", "sensitivity=0.93", "sensitivity=1.00"):
        np.testing.assert_array_equal(kept[rule], choose_thresholds(labels, p, rule))
    assert kept_thresholds(made(p, np.zeros(len(p), int), task="multiclass")) == {}


@pytest.mark.parametrize(
    "rule, found",
    [
        ("f1", "f1"),
        ("sensitivity=0.9", "sensitivity=0.90"),
        ("sensitivity=.925", "sensitivity=0.93"),
        ("sensitivity=0.3", "sensitivity=0.50"),
        ("sensitivity=1", "sensitivity=1.00"),
    ],
)
def test_a_rule_is_answered_by_the_kept_one_that_reaches_it(rule, found):
    labels, p = drawn()
    kept = kept_thresholds(made(p, labels))
    assert kept_rule(rule, kept) == found
    wanted = choose_thresholds(labels, p, rule)
    assert (np.array(kept[found]) <= wanted + 1e-12).all()  # at least as sensitive
    assert kept_rule(rule, {}) is None

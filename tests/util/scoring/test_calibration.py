"""Calibration by class, temperatures, and label sets that hold the truth as often as they say."""

import numpy as np
import pytest

from tests.support.made_predictions import made
from util.scoring.calibration import (
    COVERAGES,
    LabelSets,
    calibration_error,
    class_errors,
    fewest,
    kept_calibration,
    reliability,
    set_table,
    temperature,
    tempered,
)


def test_temperature_undoes_overconfidence():
    random = np.random.default_rng(0)
    p = random.random((20_000, 1))
    labels = (random.random(p.shape) < p).astype(float)
    assert calibration_error(labels, p) < 0.01
    sharp = tempered(p, 0.4)
    assert calibration_error(labels, sharp) > 0.05
    by = temperature(labels, sharp)
    assert by == pytest.approx(2.5, rel=0.06)
    assert calibration_error(labels, tempered(sharp, by)) < 0.015
    assert reliability(labels, p)["count"].sum() == len(p)


def test_a_temperature_at_the_end_of_the_range_is_said(capsys):
    told_apart = np.array([[0.9], [0.1], [0.8], [0.2]])
    assert temperature((told_apart > 0.5).astype(float), told_apart) == 0.1
    assert "between 0.1 and 10" in "".join(capsys.readouterr())


def test_errors_of_each_class_are_of_its_known_labels():
    labels = np.array([[1, 0, np.nan], [0, np.nan, np.nan], [1, 1, np.nan]])
    p = np.array([[0.9, 0.2, 0.5], [0.2, 0.9, 0.5], [0.6, 0.6, 0.5]])
    table = class_errors(labels, p)
    assert table["Brier"][0] == pytest.approx((0.01 + 0.04 + 0.16) / 3)
    assert table["Brier"][1] == pytest.approx((0.04 + 0.16) / 2)
    assert table["ECE"][0] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert table.loc[2].isna().all()


# ============ label sets ============
def simulated(random, records, classes=3):
    """Labels of rare to common classes and scores that know something of them, uncalibrated."""
    labels = (random.random((records, classes)) < [0.05, 0.2, 0.6]).astype(float)
    return labels, 1 / (1 + np.exp(3 - 4 * labels - 2 * random.normal(size=labels.shape)))


@pytest.mark.parametrize("coverage", COVERAGES)
def test_sets_hold_the_truth_as_often_as_they_say(coverage):
    """On each side of each class, over many draws of selection records; not much more often."""
    random, found, counts = np.random.default_rng(1), np.zeros((2, 3)), np.zeros((2, 3))
    test, p = simulated(random, 20_000)
    for _ in range(300):
        labels, outputs = simulated(random, 600)
        sets = LabelSets.fitted(labels, outputs, coverage)
        held = sets.may_be_present(p), sets.may_be_absent(p)
        for side, value in enumerate((1, 0)):
            found[side] += (held[side] & (test == value)).sum(axis=0) / (test == value).sum(axis=0)
    share = found / 300
    least = np.array([[30, 120, 360], [570, 480, 240]])  # selection records, about
    assert (share > coverage - 0.006).all()
    assert (share < coverage + 1 / least + 0.012).all(), (share, counts)


def test_the_limit_is_the_rank_of_split_conformal_prediction():
    p = np.array([0.9, 0.1, 0.5, 0.7, 0.3, 0.2, 0.8, 0.6, 0.4])[:, None]
    sets = LabelSets.fitted(np.ones_like(p), p, 0.9)
    assert sets.present[0] == pytest.approx(0.1) and sets.absent[0] == 1  # rank 9 of 9; none
    sets = LabelSets.fitted(np.zeros_like(p), p, 0.8)
    assert sets.absent[0] == pytest.approx(0.8) and sets.present[0] == 0  # rank 8
    assert [fewest(coverage) for coverage in COVERAGES] == [4, 9, 19]


def test_a_class_with_too_few_records_is_never_ruled_out():
    labels = np.array([1.0] * 8 + [0.0] * 30)[:, None]
    p = np.linspace(1, 0, 38)[:, None]
    sets = LabelSets.fitted(labels, p, 0.9)
    assert sets.may_be_present(np.array([[0.0]])).all()
    assert np.isnan(sets.decided(np.array([[0.0]]))).all()
    assert sets.decided(np.array([[1.0]])) == 1
    more = LabelSets.fitted(np.vstack([labels, [[1.0]]]), np.vstack([p, [[0.95]]]), 0.9)
    assert more.decided(np.array([[0.0]])) == 0
    unknown = LabelSets.fitted(np.full_like(labels, np.nan), p, 0.9)
    assert np.isnan(unknown.decided(p)).all()


def test_the_table_of_sets_counts_known_labels():
    labels = np.array([[1.0], [1.0], [0.0], [0.0], [np.nan]])
    present = np.array([[True], [False], [True], [False], [True]])
    absent = np.array([[False], [True], [True], [True], [False]])
    row = set_table(made(labels, labels), present, absent).iloc[0]
    assert row["positive"] == 2 and row["covered with it"] == 0.5
    assert row["covered without it"] == 1 and row["decided"] == 0.75
    assert row["right"] == pytest.approx(2 / 3)


def test_one_class_a_record_has_a_set_of_classes():
    random = np.random.default_rng(2)
    labels = random.integers(0, 3, 400)
    outputs = np.eye(3)[labels] + random.random((400, 3))
    outputs /= outputs.sum(axis=1, keepdims=True)
    kept = kept_calibration(made(outputs, labels, task="multiclass"))
    assert "temperature" not in kept and len(kept["sets"]["0.90"]["present"]) == 3
    present = outputs >= kept["sets"]["0.90"]["present"]
    share = present[np.arange(400), labels].mean()
    assert 0.9 <= share < 0.93
    assert kept_calibration(made(outputs, outputs, task="regression")) == {}


def test_several_weights_leave_open_what_any_leaves():
    one, other = (
        LabelSets(0.9, np.array(a), np.array(b))
        for a, b in (([0.2, 0.4], [0.5, 0.6]), ([0.3, 0.1], [0.7, 0.2]))
    )
    both = LabelSets.widest([one, other])
    assert both.present.tolist() == [0.2, 0.1] and both.absent.tolist() == [0.7, 0.6]

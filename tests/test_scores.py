"""Scores against golden numbers, loops written from the definitions, scipy, and closed forms."""
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

from util.challenge import CLASSES, NORMAL, WEIGHTS
from util.errors import ECGError
from util.scores import (BLOCK, accuracy, all_intervals, all_scores, auprc, auroc, bootstrap_interval,
                         challenge_score, f1, f2_g2, macro)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "challenge_metrics.json").read_text())["cases"]
SEEDS = st.integers(0, 2 ** 32 - 1)


def golden_case(name):
    """Labels, scores and outputs of a golden case, after its recipe."""
    rng = np.random.default_rng(7)
    scores = rng.random((400, 24))
    labels = rng.random((400, 24)) < 0.1
    outputs = scores > 0.85
    if name == "edge_class_5_has_no_positive_label":
        labels[:, 5] = False
    elif name == "edge_record_10_no_label_no_output":
        labels[10] = outputs[10] = False
    elif name == "edge_all_outputs_false":
        outputs[:] = False
    return labels, scores, outputs


def random_case(seed, records=30, classes=24, levels=8):
    """Few distinct scores, hence ties; records and classes without labels occur."""
    rng = np.random.default_rng(seed)
    labels = rng.random((records, classes)) < rng.uniform(0, 0.3, classes)
    scores = rng.integers(0, levels, (records, classes)) / levels
    return labels, scores, scores >= rng.uniform(0.2, 1.1, classes)


def challenge_loop(labels, outputs):
    """The definition, record by record and class by class."""
    def credit(answers):
        total = 0.0
        for truth, answer in zip(labels, answers):
            union = max(sum(bool(a or b) for a, b in zip(truth, answer)), 1)
            for j in range(24):
                for k in range(24):
                    if truth[j] and answer[k]:
                        total += WEIGHTS[j, k] / union
        return total
    inactive = np.zeros_like(labels)
    inactive[:, NORMAL] = True
    observed, perfect, nothing = credit(outputs), credit(labels), credit(inactive)
    return (observed - nothing) / (perfect - nothing) if perfect != nothing else 0.0


def area_loop(labels, scores):
    """AUROC by trapezoids and AUPRC by steps, over the distinct thresholds of one class."""
    positives, negatives = labels.sum(), (~labels).sum()
    points = [(0, 0, 1.0)]
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        points.append((np.sum(chosen & labels), np.sum(chosen & ~labels), np.mean(labels[chosen])))
    roc = prc = 0.0
    for (tp0, fp0, _), (tp1, fp1, precision) in zip(points, points[1:]):
        roc += (fp1 - fp0) * (tp1 + tp0) / 2
        prc += (tp1 - tp0) * precision
    roc = roc / (positives * negatives) if positives and negatives else np.nan
    return roc, prc / positives if positives else np.nan


@pytest.mark.parametrize("name", list(GOLDEN))
def test_golden_numbers(name):
    labels, scores, outputs = golden_case(name)
    golden, report = GOLDEN[name], all_scores(labels, scores, outputs)
    if name == "base":
        assert labels.sum() == golden["n_label_positives"] and outputs.sum() == golden["n_output_positives"]
    names = {"auroc": "macro_auroc", "auprc": "macro_auprc", "accuracy": "accuracy", "macro_f1": "macro_f",
             "f2": "f_beta_2", "g2": "g_beta_2", "challenge_score": "challenge_metric"}
    for ours, theirs in names.items():
        assert report[ours] == pytest.approx(golden[theirs], abs=1e-12, rel=0), ours
    assert report["n_records"] == 400 and set(report) == set(names) | {"n_records"}
    for function, prediction, theirs in [(f1, outputs, "f"), (auroc, scores, "auroc"), (auprc, scores, "auprc")]:
        expected = np.array(golden[f"{theirs}_per_class"], float)  # null becomes NaN
        np.testing.assert_allclose(function(labels, prediction), expected, atol=1e-12, rtol=0)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_challenge_score_equals_the_loop(seed):
    labels, _, outputs = random_case(seed)
    assert challenge_score(labels, outputs) == pytest.approx(challenge_loop(labels, outputs), abs=1e-12)


def test_challenge_score_does_not_depend_on_blocks_or_order():
    labels, _, outputs = random_case(3, records=2 * BLOCK + 7)
    order = np.random.default_rng(0).permutation(len(labels))
    assert challenge_score(labels[order], outputs[order]) == pytest.approx(challenge_score(labels, outputs), abs=1e-12)
    assert challenge_score(np.asfortranarray(labels), np.asfortranarray(outputs)) == challenge_score(labels, outputs)
    tile = np.tile(labels[:100], (23, 1)), np.tile(outputs[:100], (23, 1))  # 2300 records, more than two blocks
    assert challenge_score(*tile) == pytest.approx(challenge_score(labels[:100], outputs[:100]), abs=1e-12)


def test_challenge_score_closed_forms():
    labels, _, _ = random_case(0)
    inactive = np.zeros_like(labels)
    inactive[:, NORMAL] = True
    assert challenge_score(labels, labels) == 1
    assert challenge_score(labels, inactive) == 0
    assert challenge_score(inactive, inactive) == 0      # the denominator is 0
    assert challenge_score(inactive, ~inactive) == 0
    empty = np.zeros_like(labels)
    assert challenge_score(empty, labels) == 0
    one = np.eye(24, dtype=bool)[[1]]                    # atrial fibrillation, answered by atrial flutter
    nothing = WEIGHTS[1, NORMAL] / 2
    assert challenge_score(one, np.eye(24, dtype=bool)[[2]]) == pytest.approx((0.5 / 2 - nothing) / (1 - nothing))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_areas_equal_the_loop_with_ties_grouped(seed):
    labels, scores, _ = random_case(seed, classes=5)
    expected = np.array([area_loop(labels[:, c], scores[:, c]) for c in range(5)]).T
    np.testing.assert_allclose(auroc(labels, scores), expected[0], atol=1e-12)
    np.testing.assert_allclose(auprc(labels, scores), expected[1], atol=1e-12)


def test_areas_closed_forms():
    labels = np.array([[True, True, False], [False, True, False], [True, True, False], [False, True, False]])
    scores = np.array([[0.9, 0.1, 0.2], [0.2, 0.3, 0.1], [0.8, 0.5, 0.3], [0.1, 0.2, 0.4]])
    np.testing.assert_array_equal(auroc(labels, scores), [1, np.nan, np.nan])  # no negative, no positive
    np.testing.assert_array_equal(auprc(labels, scores), [1, 1, np.nan])
    assert macro(auroc(labels, scores)) == 1 and macro(auprc(labels, scores)) == 1
    np.testing.assert_array_equal(auroc(labels, np.zeros_like(scores)), [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(auprc(labels, np.zeros_like(scores)), [0.5, 1, np.nan])
    assert np.isnan(macro(np.array([np.nan])))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_f_measures_equal_the_loop(seed):
    labels, _, outputs = random_case(seed, classes=5)
    plain, f2, g2 = np.full((3, 5), np.nan)
    for c in range(5):
        for weighted in (False, True):
            tp = fp = fn = 0.0
            for truth, answer in zip(labels, outputs):
                share = 1 / max(truth.sum(), 1) if weighted else 1
                tp += share * (truth[c] and answer[c])
                fp += share * (answer[c] and not truth[c])
                fn += share * (truth[c] and not answer[c])
            if tp + fp + fn and weighted:
                f2[c], g2[c] = 5 * tp / (5 * tp + fp + 4 * fn), tp / (tp + fp + 2 * fn)
            elif tp + fp + fn:
                plain[c] = 2 * tp / (2 * tp + fp + fn)
    np.testing.assert_allclose(f1(labels, outputs), plain, atol=1e-12)
    assert f2_g2(labels, outputs) == pytest.approx((np.nanmean(f2), np.nanmean(g2)), abs=1e-12)


def test_accuracy_counts_records_that_are_right_throughout():
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    assert accuracy(labels, np.array([[1, 0], [1, 0], [0, 0], [1, 0]])) == 0.5


def test_other_classes_have_every_score_but_the_challenge_one():
    report = all_scores(*random_case(1, classes=3))
    assert "challenge_score" not in report and report["n_records"] == 30
    with pytest.raises(ValueError, match="24 classes"):
        challenge_score(*random_case(1, classes=3)[::2])


@pytest.mark.parametrize("function", [challenge_score, lambda a, b: macro(auroc(a, b))])
def test_bootstrap_is_scipys(function):
    labels, scores, outputs = random_case(5, records=60)
    predictions = outputs if function is challenge_score else scores
    reference = scipy.stats.bootstrap((np.arange(60),), lambda rows: function(labels[rows], predictions[rows]),
                                      vectorized=False, method="percentile", n_resamples=50, confidence_level=0.9,
                                      rng=np.random.default_rng(4)).confidence_interval
    low, high = bootstrap_interval(function, labels, predictions, n=50, level=0.9, seed=4)
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-15)
    assert low < high


def test_bootstrap_of_a_report():
    labels, scores, outputs = random_case(6, records=200)
    report, intervals = all_scores(labels, scores, outputs), all_intervals(labels, scores, outputs, n=60)
    assert set(intervals) == set(report) - {"n_records"}
    for name, (low, high) in intervals.items():
        assert low <= report[name] <= high, name
    assert intervals == all_intervals(labels, scores, outputs, n=60)
    assert bootstrap_interval(challenge_score, labels, labels, n=10) == (1, 1)


def test_wrong_input_is_refused():
    labels, scores, outputs = random_case(7)
    scores[4, 2] = np.nan
    for function in (auroc, auprc):
        with pytest.raises(ECGError, match="1 of 720 scores.*record 4, class 2"):
            function(labels, scores)
    with pytest.raises(ValueError, match="0 or 1"):
        challenge_score(labels, np.full(labels.shape, 0.3))
    with pytest.raises(ValueError, match=r"\(30, 24\).*\(29, 24\)"):
        accuracy(labels, outputs[1:])
    with pytest.raises(ECGError, match="no record"):
        challenge_score(labels[:0], outputs[:0])
    assert len(CLASSES) == labels.shape[1]


def test_zero_and_one_are_labels_too():
    labels, _, outputs = random_case(8)
    for kind in (int, np.float32):
        assert challenge_score(labels.astype(kind), outputs.astype(kind)) == challenge_score(labels, outputs)

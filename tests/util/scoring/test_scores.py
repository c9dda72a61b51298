"""Scores against golden numbers, loops written from the definitions, torchmetrics, scipy, and
closed forms.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from hypothesis import given, settings
from hypothesis import strategies as st

from util.challenge import ABBREVIATIONS, NORMAL, WEIGHTS
from util.config.load import ROOT
from util.errors import ConfigError, ECGError
from util.scoring.scores import (
    BLOCK,
    REPORT,
    SCORES,
    as_markdown,
    auprc,
    auroc,
    challenge_score,
    compute_scores,
    exact_match,
    f1,
    f2,
    g2,
    macro,
    parse_scores,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "challenge_metrics.json").read_text())[
    "cases"
]
SEEDS = st.integers(0, 2**32 - 1)
PUBLISHED = ["Accuracy", "F1Score", "AUROC", "AUPRC"]  # of torchmetrics, for both tasks
MULTILABEL = [name for name, score in SCORES.items() if "multilabel" in score.tasks]


def scores_of(probabilities, labels, names, task="multilabel", thresholds=0.5, average=None):
    """``compute_scores`` by names, {name: value}."""
    asked = [{name: {"average": average}} if average else name for name in names]
    values = compute_scores(
        probabilities, labels, parse_scores(asked, ABBREVIATIONS, task), task, thresholds
    )
    return dict(zip(names, values.values(), strict=True))


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


def fair_case(seed, records=60, classes=5):
    """Probabilities of a fair classifier and labels, float32; every class occurs."""
    random = np.random.default_rng(seed)
    labels = (random.random((records, classes)) < 0.3).astype(np.float32)
    return np.clip(0.35 * labels + 0.6 * random.random((records, classes)), 0, 1), labels


# ============ definitions as loops ============
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


def f1_loop(output, positive):
    """Of one class; 0 where it is neither present nor output, as in torchmetrics."""
    hit = sum(o and p for o, p in zip(output, positive))
    wrong = sum(bool(o) != bool(p) for o, p in zip(output, positive))
    return 2 * hit / (2 * hit + wrong) if hit or wrong else 0.0


# ============ formulas ============
@pytest.mark.parametrize("name", list(GOLDEN))
def test_golden_numbers(name):
    labels, scores, outputs = golden_case(name)
    golden, report = GOLDEN[name], scores_of(scores, labels, ["AUROC", "AUPRC"])
    if name == "base":
        assert (
            labels.sum() == golden["n_label_positives"]
            and outputs.sum() == golden["n_output_positives"]
        )
    report |= scores_of(outputs.astype(float), labels, REPORT[2:])
    names = {
        "AUROC": "macro_auroc",
        "AUPRC": "macro_auprc",
        "ExactMatch": "accuracy",
        "ChallengeF1": "macro_f",
        "F2": "f_beta_2",
        "G2": "g_beta_2",
        "ChallengeScore": "challenge_metric",
    }
    for name, published in names.items():
        assert report[name] == pytest.approx(golden[published], abs=1e-12, rel=0), name
    assert list(names) == REPORT
    assert [SCORES[name].heading for name in REPORT] == [
        "AUROC",
        "AUPRC",
        "Acc",
        "F1",
        "F2",
        "G2",
        "CM",
    ]
    for function, prediction, published in [
        (f1, outputs, "f"),
        (auroc, scores, "auroc"),
        (auprc, scores, "auprc"),
    ]:
        expected = np.array(golden[f"{published}_per_class"], float)  # null becomes NaN
        np.testing.assert_allclose(function(labels, prediction), expected, atol=1e-12, rtol=0)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_challenge_score_equals_the_loop(seed):
    labels, _, outputs = random_case(seed)
    assert challenge_score(labels, outputs) == pytest.approx(
        challenge_loop(labels, outputs), abs=1e-12
    )


def test_challenge_score_does_not_depend_on_blocks_or_order():
    labels, _, outputs = random_case(3, records=2 * BLOCK + 7)
    order = np.random.default_rng(0).permutation(len(labels))
    assert challenge_score(labels[order], outputs[order]) == pytest.approx(
        challenge_score(labels, outputs), abs=1e-12
    )
    assert challenge_score(
        np.asfortranarray(labels), np.asfortranarray(outputs)
    ) == challenge_score(labels, outputs)
    tile = (
        np.tile(labels[:100], (23, 1)),
        np.tile(outputs[:100], (23, 1)),
    )  # 2300 records, more than two blocks
    assert challenge_score(*tile) == pytest.approx(
        challenge_score(labels[:100], outputs[:100]), abs=1e-12
    )


def test_challenge_score_closed_forms():
    labels, _, _ = random_case(0)
    inactive = np.zeros_like(labels)
    inactive[:, NORMAL] = True
    assert challenge_score(labels, labels) == 1
    assert challenge_score(labels, inactive) == 0
    assert challenge_score(inactive, inactive) == 0  # the denominator is 0
    assert challenge_score(inactive, ~inactive) == 0
    empty = np.zeros_like(labels)
    assert challenge_score(empty, labels) == 0
    one = np.eye(24, dtype=bool)[[1]]  # atrial fibrillation, answered by atrial flutter
    nothing = WEIGHTS[1, NORMAL] / 2
    assert challenge_score(one, np.eye(24, dtype=bool)[[2]]) == pytest.approx(
        (0.5 / 2 - nothing) / (1 - nothing)
    )


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_areas_equal_the_loop_with_ties_grouped(seed):
    labels, scores, _ = random_case(seed, classes=5)
    expected = np.array([area_loop(labels[:, c], scores[:, c]) for c in range(5)]).T
    np.testing.assert_allclose(auroc(labels, scores), expected[0], atol=1e-12)
    np.testing.assert_allclose(auprc(labels, scores), expected[1], atol=1e-12)


@pytest.mark.parametrize("area", [auroc, auprc])
def test_weighted_areas_are_those_of_repeated_records(area):
    labels, scores, _ = random_case(4, classes=5)
    weights = np.random.default_rng(4).integers(0, 4, (200, len(labels)))
    weighted = area(labels, scores, weights)
    repeated = [
        area(np.repeat(labels, row, axis=0), np.repeat(scores, row, axis=0)) for row in weights
    ]
    np.testing.assert_allclose(weighted, repeated, atol=1e-12, rtol=0)
    np.testing.assert_allclose(area(labels, scores, weights / 8), weighted, atol=1e-12, rtol=0)
    np.testing.assert_array_equal(area(labels, scores, 0 * weights), np.full((200, 5), np.nan))


@pytest.mark.parametrize("area", [auroc, auprc])
def test_unknown_labels_take_no_part_in_areas(area):
    labels, scores, _ = random_case(5, classes=3)
    partly = np.where(np.random.default_rng(5).random(labels.shape) < 0.3, np.nan, labels)
    expected = []
    for column, score in zip(partly.T, scores.T):
        known = ~np.isnan(column)
        expected += area(column[known][:, None], score[known][:, None]).tolist()
    np.testing.assert_allclose(area(partly, scores), expected, atol=1e-12, rtol=0)


def test_areas_closed_forms():
    labels = np.array(
        [[True, True, False], [False, True, False], [True, True, False], [False, True, False]]
    )
    scores = np.array([[0.9, 0.1, 0.2], [0.2, 0.3, 0.1], [0.8, 0.5, 0.3], [0.1, 0.2, 0.4]])
    np.testing.assert_array_equal(
        auroc(labels, scores), [1, np.nan, np.nan]
    )  # no negative, no positive
    np.testing.assert_array_equal(auprc(labels, scores), [1, 1, np.nan])
    assert macro(auroc(labels, scores)) == 1 and macro(auprc(labels, scores)) == 1
    np.testing.assert_array_equal(auroc(labels, np.zeros_like(scores)), [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(auprc(labels, np.zeros_like(scores)), [0.5, 1, np.nan])
    assert np.isnan(macro(np.array([np.nan])))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_f_measures_equal_the_loop(seed):
    labels, _, outputs = random_case(seed, classes=5)
    expected = np.full((3, 5), np.nan)
    for c in range(5):
        for weighted in (False, True):
            tp = fp = fn = 0.0
            for truth, answer in zip(labels, outputs):
                share = 1 / max(truth.sum(), 1) if weighted else 1
                tp += share * (truth[c] and answer[c])
                fp += share * (answer[c] and not truth[c])
                fn += share * (truth[c] and not answer[c])
            if tp + fp + fn and weighted:
                expected[1:, c] = 5 * tp / (5 * tp + fp + 4 * fn), tp / (tp + fp + 2 * fn)
            elif tp + fp + fn:
                expected[0, c] = 2 * tp / (2 * tp + fp + fn)
    for function, values in zip((f1, f2, g2), expected):
        np.testing.assert_allclose(function(labels, outputs), values, atol=1e-12)


def test_exact_match_counts_records_that_are_right_throughout():
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    assert exact_match(labels, np.array([[1, 0], [1, 0], [0, 0], [1, 0]])) == 0.5


# ============ the registry's scores, as published ============
@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(["macro", "micro"]), st.sampled_from([5, 24]))
def test_multilabel_scores_equal_their_definitions(seed, average, classes):
    labels, probabilities, _ = random_case(seed, classes=classes)
    got = scores_of(probabilities, labels, PUBLISHED, average=average)
    outputs = probabilities > 0.5
    columns = (
        [(labels.ravel(), probabilities.ravel(), outputs.ravel())]
        if average == "micro"
        else list(zip(labels.T, probabilities.T, outputs.T))
    )
    areas = np.array([area_loop(y, p) for y, p, _ in columns])
    assert got["Accuracy"] == pytest.approx((outputs == labels).mean(), abs=1e-6)
    assert got["F1Score"] == pytest.approx(
        np.mean([f1_loop(o, y) for y, _, o in columns]), abs=1e-6
    )
    assert got["AUROC"] == pytest.approx(macro(areas[:, 0]), abs=1e-6, nan_ok=True)
    assert got["AUPRC"] == pytest.approx(macro(areas[:, 1]), abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_multiclass_scores_equal_their_definitions(average):
    random = np.random.default_rng(5)
    number = random.integers(0, 4, 80)
    logits = random.standard_normal((80, 4)) + 1.2 * np.eye(4)[number]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    got = scores_of(probabilities, number, PUBLISHED, "multiclass", average=average)
    hot, output = np.eye(4, dtype=bool)[number], np.eye(4, dtype=bool)[probabilities.argmax(axis=1)]
    right = probabilities.argmax(axis=1) == number
    recall = np.mean([right[number == c].mean() for c in range(4)])
    columns = (
        [(hot.ravel(), probabilities.ravel(), output.ravel())]
        if average == "micro"
        else list(zip(hot.T, probabilities.T, output.T))
    )
    areas = np.mean([area_loop(y, p) for y, p, _ in columns], axis=0)
    assert got["Accuracy"] == pytest.approx(
        recall if average == "macro" else right.mean(), abs=1e-6
    )
    assert got["F1Score"] == pytest.approx(
        np.mean([f1_loop(o, y) for y, _, o in columns]), abs=1e-6
    )
    assert (got["AUROC"], got["AUPRC"]) == pytest.approx(tuple(areas), abs=1e-6)


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_published_names_are_torchmetrics_where_every_class_occurs(task, average):
    probabilities, labels = fair_case(14, records=200)
    labels = labels if task == "multilabel" else np.random.default_rng(14).integers(0, 5, 200)
    got = scores_of(probabilities, labels, PUBLISHED, task, average=average)
    p, y = torch.from_numpy(probabilities), torch.from_numpy(labels).long()
    size = {"task": task, "num_labels" if task == "multilabel" else "num_classes": 5}
    for name, function in {"Accuracy": tm.accuracy, "F1Score": tm.f1_score}.items():
        assert got[name] == pytest.approx(
            float(function(p, y, average=average, **size)), abs=1e-6
        ), name
    if average == "micro":
        hot = y if task == "multilabel" else torch.nn.functional.one_hot(y, 5)
        p, y, size = p.flatten(), hot.flatten(), {"task": "binary"}
    for name, function in {"AUROC": tm.auroc, "AUPRC": tm.average_precision}.items():
        assert got[name] == pytest.approx(float(function(p, y, **size)), abs=1e-6), name


def test_perfect_and_inverted_predictions():
    _, labels = fair_case(3, classes=24)
    best = {
        name: float(not score.lower_is_better)
        for name, score in SCORES.items()
        if name in MULTILABEL
    }
    assert scores_of(labels.astype(float), labels, MULTILABEL) == pytest.approx(best)
    inverted = scores_of(1.0 - labels, labels, set(MULTILABEL) - {"AUPRC", "ChallengeScore"})
    assert inverted == {name: 1 - best[name] for name in inverted}
    constant = scores_of(np.full(labels.shape, 0.5), labels, ["AUROC", "AUPRC"])
    assert constant == pytest.approx({"AUROC": 0.5, "AUPRC": labels.mean(axis=0).mean()})


def test_the_decision_is_above_one_threshold_and_at_a_class_s_own():
    labels = np.array([[1.0, 0.0]])
    assert scores_of(np.array([[0.5, 0.5]]), labels, ["Accuracy"])["Accuracy"] == 0.5
    assert scores_of(np.array([[0.51, 0.5]]), labels, ["Accuracy"])["Accuracy"] == 1
    probabilities, thresholds = (
        np.array([[0.3, 0.3]], np.float32),
        np.array([np.float32(0.3), 0.31]),
    )
    assert (
        scores_of(probabilities, labels, ["ExactMatch"], thresholds=thresholds)["ExactMatch"] == 1
    )


# ============ classes without a value ============
def test_two_definitions_of_f1_have_two_names():
    probabilities, labels = fair_case(6)
    labels[:, 2] = probabilities[:, 2] = 0
    got = scores_of(probabilities, labels, ["F1Score", "ChallengeF1"])
    assert got["F1Score"] == pytest.approx(got["ChallengeF1"] * 4 / 5, abs=1e-6)


def test_a_class_without_positives_is_left_out_of_both_curves():
    """torchmetrics would count it as 0."""
    probabilities, labels = fair_case(6)
    labels[:, 2] = 0
    kept = [0, 1, 3, 4]
    curves = ["AUROC", "AUPRC"]
    assert scores_of(probabilities, labels, curves) == pytest.approx(
        scores_of(probabilities[:, kept], labels[:, kept], curves), abs=1e-12
    )


def test_an_absent_class_of_a_multiclass_task_is_left_out_of_the_curves():
    random = np.random.default_rng(8)
    number, probabilities = (
        random.integers(0, 3, 50),
        random.dirichlet(np.ones(4), 50),
    )  # nobody is of class 3
    got = scores_of(probabilities, number, ["AUROC"], "multiclass")["AUROC"]
    want = np.mean([area_loop(number == c, probabilities[:, c])[0] for c in range(3)])
    assert got == pytest.approx(want, abs=1e-12)


def test_without_any_defined_class_there_is_no_value():
    values = scores_of(
        np.full((4, 3), 0.4), np.zeros((4, 3)), ["AUROC", "AUPRC", "ChallengeF1", "F2", "G2"]
    )
    assert all(math.isnan(value) for value in values.values())


# ============ what must not pass in silence ============
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_not_finite_have_no_scores(bad):
    """NaN never wins a best checkpoint."""
    probabilities, labels = fair_case(9)
    probabilities[3, 2] = bad
    values = scores_of(probabilities, labels, PUBLISHED)
    assert values.keys() == set(PUBLISHED) and all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_rounding_error_above_one_changes_nothing(task):
    """torchmetrics takes anything outside of [0, 1] for logits and squashes the lot."""
    random = np.random.default_rng(10)
    number, probabilities = random.integers(0, 3, 40), random.dirichlet(np.ones(3), 40)
    probabilities[0] = [1, 0, 0]
    labels = np.eye(3)[number] if task == "multilabel" else number
    want = scores_of(probabilities, labels, PUBLISHED, task)
    probabilities[0] = [1 + 1e-7, -1e-9, 0]
    assert scores_of(probabilities, labels, PUBLISHED, task) == want


def test_inputs_stay_as_they_were_and_their_order_does_not_matter():
    labels, probabilities, _ = random_case(12, records=60)
    before, order = (
        (probabilities.copy(), labels.copy()),
        np.random.default_rng(0).permutation(len(labels)),
    )
    values = scores_of(probabilities, labels, MULTILABEL)
    assert np.array_equal(before[0], probabilities) and np.array_equal(before[1], labels)
    assert scores_of(probabilities[order], labels[order], MULTILABEL) == pytest.approx(
        values, abs=1e-9
    )


def test_wrong_input_is_refused():
    labels, scores, outputs = random_case(7)
    scores[4, 2] = np.nan
    for function in (auroc, auprc):
        with pytest.raises(ECGError, match="1 of 720 scores.*record 4, class 2"):
            function(labels, scores)
    with pytest.raises(ValueError, match="0 or 1"):
        challenge_score(labels, np.full(labels.shape, 0.3))
    with pytest.raises(ValueError, match=r"\(30, 24\).*\(29, 24\)"):
        exact_match(labels, outputs[1:])
    with pytest.raises(ValueError, match="24 classes"):
        challenge_score(labels[:, :3], outputs[:, :3])
    with pytest.raises(ECGError, match="no record"):
        challenge_score(labels[:0], outputs[:0])
    with pytest.raises(ECGError, match="no record"):
        scores_of(scores[:0], labels[:0], PUBLISHED)


def test_zero_and_one_are_labels_too():
    labels, _, outputs = random_case(8)
    for kind in (int, np.float32):
        assert challenge_score(labels.astype(kind), outputs.astype(kind)) == challenge_score(
            labels, outputs
        )


# ============ unknown labels, regression ============
def with_unknown(seed, share=0.2):
    """Probabilities, labels float with NaN, and the same labels complete."""
    random = np.random.default_rng(seed)
    labels = (random.random((80, 24)) < 0.3).astype(float)
    probabilities = np.clip(0.35 * labels + 0.6 * random.random((80, 24)), 0, 1)
    partly = np.where(random.random((80, 24)) < share, np.nan, labels)
    partly[:30] = labels[:30]  # some records are known as a whole
    partly[30:, 5] = np.nan
    return probabilities, partly, labels


@pytest.mark.parametrize("name", ["AUROC", "AUPRC", "ChallengeF1", "Accuracy", "F1Score"])
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_an_unknown_label_takes_no_part_a_class_at_a_time(name, average):
    """Against a loop: each class from the records whose label is known; micro: all known labels
    as one class.
    """
    if average not in SCORES[name].averages:
        pytest.skip("not offered")
    probabilities, partly, labels = with_unknown(0)
    known = ~np.isnan(partly)
    if average == "micro":
        expected = scores_of(
            probabilities[known][:, None], labels[known][:, None], [name], average="macro"
        )[name]
    else:
        expected = np.mean(
            [
                scores_of(
                    probabilities[known[:, c], c : c + 1],
                    labels[known[:, c], c : c + 1],
                    [name],
                    average="macro",
                )[name]
                for c in range(24)
            ]
        )
    assert scores_of(probabilities, partly, [name], average=average)[name] == pytest.approx(
        expected, abs=1e-6
    )
    taken_as_no = scores_of(probabilities, np.nan_to_num(partly), [name], average=average)[name]
    assert abs(taken_as_no - expected) > 1e-3, "unknown is not negative"


@pytest.mark.parametrize("name", ["ExactMatch", "F2", "G2", "ChallengeScore"])
def test_scores_of_whole_records_leave_out_partly_unknown_ones(name):
    probabilities, partly, labels = with_unknown(1)
    whole = ~np.isnan(partly).any(axis=1)
    assert 30 <= whole.sum() < 80
    assert (
        scores_of(probabilities, partly, [name])[name]
        == scores_of(probabilities[whole], labels[whole], [name])[name]
    )
    assert np.isnan(scores_of(probabilities[~whole], partly[~whole], [name])[name])


def test_a_class_that_nobody_knows_is_left_out_of_every_mean():
    probabilities, partly, _ = with_unknown(2)
    partly[:, 5] = np.nan
    others = np.arange(24) != 5
    for name in ("AUROC", "AUPRC", "ChallengeF1", "Accuracy", "F1Score"):
        values = [
            scores_of(
                probabilities[:, columns], partly[:, columns], [name], average=SCORES[name].average
            )[name]
            for columns in (slice(None), others)
        ]
        assert values[0] == values[1], name


def test_regression_scores_by_hand_and_a_column_at_a_time():
    labels = np.array([[10.0, 1], [20, np.nan], [30, 3], [np.nan, 3]], np.float32)
    predictions = np.array([[12.0, 1], [20, 100], [24, 2], [-100, 3]])
    scores = parse_scores(None, task="regression")
    assert list(scores) == ["MAE", "R2"]
    values = compute_scores(predictions, labels, scores, "regression")
    # errors 2, 0, 6 and 0, 1, 0; squares 40 of 200 about the mean 20, and 1 of 8 / 3 about the
    # mean 7 / 3
    assert values["MAE"] == pytest.approx((8 / 3 + 1 / 3) / 2)
    assert values["R2"] == pytest.approx(((1 - 40 / 200) + (1 - 1 / (8 / 3))) / 2)
    known = compute_scores(predictions[:, :1][:3], labels[:3, :1], scores, "regression")
    assert known == pytest.approx({"MAE": 8 / 3, "R2": 0.8})
    assert np.isnan(compute_scores(predictions[:1], labels[:1], scores, "regression")["R2"]), (
        "one record has no variance"
    )
    assert np.isnan(compute_scores(predictions * np.nan, labels, scores, "regression")["MAE"])
    with pytest.raises(
        ConfigError, match="AUROC is defined for metric.task multilabel, not regression"
    ):
        parse_scores(["AUROC"], task="regression")
    with pytest.raises(
        ConfigError, match="MAE is defined for metric.task regression, not multiclass"
    ):
        parse_scores(["MAE"], task="multiclass")


# ============ names ============
def test_names_and_averages():
    got = parse_scores(
        [
            "Accuracy",
            {"F1Score": {"average": "macro"}},
            {"AUROC": {"average": "micro"}},
            "AUROC",
            {"AUPRC": None},
        ]
    )
    assert {name: score.average for name, score in got.items()} == {
        "Accuracy": "micro",
        "F1Score": "macro",
        "AUROC_micro": "micro",
        "AUROC": "macro",
        "AUPRC": "macro",
    }
    assert parse_scores(list(got)) == got, "printed names are names of a config"
    assert list(parse_scores(["ChallengeScore"], ABBREVIATIONS)) == ["ChallengeScore"]
    assert parse_scores([]) == {} and not any("_" in name for name in SCORES)


@pytest.mark.parametrize(
    "item, words",
    [
        ("MulticlassAUROC", "unknown metric 'MulticlassAUROC'; known: AUROC"),
        ({"AUROC": {"average": "weighted"}}, "macro or micro"),
        ({"AUROC": {"average": ["macro"]}}, "macro or micro"),
        ({"AUROC": {"top_k": 1}}, "macro or micro"),
        ({"AUROC": "macro"}, "macro or micro"),
        (["AUROC"], "unknown metric"),
        ({"AUROC_micro": {"average": "macro"}}, "unknown metric"),
        ({"ExactMatch": {"average": "macro"}}, "no argument"),
        ({"F2": {"average": "micro"}}, "average: macro, not"),
        ("ChallengeScore", "needs dataset.classes: challenge2020"),
        (None, "unknown metric"),
        ({"AUROC": {}, "AUPRC": {}}, "unknown"),
    ],
)
def test_wrong_names_are_config_errors(item, words):
    with pytest.raises(ConfigError, match=words):
        parse_scores([item], ("a", "b"))


def test_what_is_asked_twice_or_not_defined_for_the_task_is_a_config_error():
    with pytest.raises(ConfigError, match="names AUROC twice"):
        parse_scores(["AUROC", {"AUROC": {"average": "macro"}}])
    with pytest.raises(
        ConfigError, match="F2 is defined for metric.task multilabel, not multiclass"
    ):
        parse_scores(["F2"], ABBREVIATIONS, "multiclass")


def test_the_page_of_scores_is_up_to_date():
    assert (ROOT / "docs" / "scores.md").read_text() == as_markdown() + "\n", (
        "python -m util.scoring.scores > docs/scores.md"
    )

"""Metrics against their definitions, written out record by record and class by class."""
import math

import numpy as np
import pytest

from util.challenge import ABBREVIATIONS
from util.errors import ConfigError
from util.metrics import METRICS, compute_metrics, parse_metrics
from util.scores import challenge_score

NAMES = ["Accuracy", "F1Score", "AUROC", "AUPRC"]


# ============ definitions ============
def auroc(scores, positive):
    """Share of (positive, negative) pairs in the right order; ties count half."""
    pairs = [(a > b) + 0.5 * (a == b) for a, p in zip(scores, positive) if p for b, q in zip(scores, positive) if not q]
    return sum(pairs) / len(pairs)


def auprc(scores, positive):
    """Sum of precision times the gain of recall, threshold by threshold."""
    area = recall = 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [p for s, p in zip(scores, positive) if s >= threshold]
        now = sum(chosen) / sum(positive)
        area, recall = area + (now - recall) * sum(chosen) / len(chosen), now
    return area


def f1(output, positive):
    hit = sum(o and p for o, p in zip(output, positive))
    wrong = sum(bool(o) != bool(p) for o, p in zip(output, positive))
    return 2 * hit / (2 * hit + wrong) if hit or wrong else 0.0


def literal(probabilities, labels):
    """Multi-label: {name: {average: value}}."""
    output = probabilities > 0.5
    classes = range(labels.shape[1])
    present = [c for c in classes if labels[:, c].any()]
    curve = [c for c in classes if 0 < labels[:, c].sum() < len(labels)]
    return {"Accuracy": dict.fromkeys(("micro", "macro"), (output == (labels > 0)).mean()),
            "F1Score": {"macro": np.mean([f1(output[:, c], labels[:, c]) for c in classes]),
                        "micro": f1(output.ravel(), labels.ravel())},
            "AUROC": {"macro": np.mean([auroc(probabilities[:, c], labels[:, c]) for c in curve]),
                      "micro": auroc(probabilities.ravel(), labels.ravel())},
            "AUPRC": {"macro": np.mean([auprc(probabilities[:, c], labels[:, c]) for c in present]),
                      "micro": auprc(probabilities.ravel(), labels.ravel())}}


def random_case(seed, records=60, classes=5, ties=False):
    random = np.random.default_rng(seed)
    labels = (random.random((records, classes)) < 0.3).astype(np.float32)
    probabilities = np.clip(0.35 * labels + 0.6 * random.random((records, classes)), 0, 1)
    return (probabilities.round(1) if ties else probabilities), labels


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("seed, ties", [(0, False), (1, True), (2, True)])
def test_multilabel_metrics_equal_their_definitions(seed, ties, average):
    probabilities, labels = random_case(seed, ties=ties)
    got = compute_metrics(probabilities, labels, dict.fromkeys(NAMES, average), "multilabel")
    for name, want in literal(probabilities, labels).items():
        assert got[name] == pytest.approx(want[average], abs=1e-6), name


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_multiclass_metrics_equal_their_definitions(average):
    random = np.random.default_rng(5)
    number = random.integers(0, 4, 80)
    logits = random.standard_normal((80, 4)) + 1.2 * np.eye(4)[number]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    got = compute_metrics(probabilities, number, dict.fromkeys(NAMES, average), "multiclass")
    hot, output = np.eye(4)[number], np.eye(4)[probabilities.argmax(axis=1)]
    right = (probabilities.argmax(axis=1) == number)
    recall = np.mean([right[number == c].mean() for c in range(4)])
    each = range(4) if average == "macro" else None
    columns = [(probabilities[:, c], hot[:, c]) for c in each] if each else [(probabilities.ravel(), hot.ravel())]
    outputs = [(output[:, c], hot[:, c]) for c in each] if each else [(output.ravel(), hot.ravel())]
    assert got["Accuracy"] == pytest.approx(recall if each else right.mean(), abs=1e-6)
    assert got["F1Score"] == pytest.approx(np.mean([f1(o, y) for o, y in outputs]), abs=1e-6)
    assert got["AUROC"] == pytest.approx(np.mean([auroc(p, y) for p, y in columns]), abs=1e-6)
    assert got["AUPRC"] == pytest.approx(np.mean([auprc(p, y) for p, y in columns]), abs=1e-6)


# ============ closed forms ============
def test_perfect_and_inverted_predictions():
    _, labels = random_case(3)
    perfect = compute_metrics(labels.astype(float), labels, dict.fromkeys(NAMES, "macro"), "multilabel")
    assert perfect == pytest.approx(dict.fromkeys(NAMES, 1.0))
    inverted = compute_metrics(1.0 - labels, labels, dict.fromkeys(NAMES, "macro"), "multilabel")
    assert inverted["AUROC"] == inverted["Accuracy"] == inverted["F1Score"] == 0
    constant = compute_metrics(np.full(labels.shape, 0.5), labels, {"AUROC": "macro", "AUPRC": "macro"}, "multilabel")
    assert constant["AUROC"] == pytest.approx(0.5)
    assert constant["AUPRC"] == pytest.approx(labels.mean(axis=0).mean())


def test_the_decision_is_above_one_half():
    labels = np.array([[1.0, 0.0]])
    assert compute_metrics(np.array([[0.5, 0.5]]), labels, {"Accuracy": "micro"}, "multilabel")["Accuracy"] == 0.5
    assert compute_metrics(np.array([[0.51, 0.5]]), labels, {"Accuracy": "micro"}, "multilabel")["Accuracy"] == 1


# ============ classes without a value ============
def test_a_class_without_positives_is_left_out_of_both_curves():
    """torchmetrics would count it as 0."""
    probabilities, labels = random_case(6)
    labels[:, 2] = 0
    kept = [0, 1, 3, 4]
    curves = {"AUROC": "macro", "AUPRC": "macro"}
    assert compute_metrics(probabilities, labels, curves, "multilabel") == pytest.approx(
        compute_metrics(probabilities[:, kept], labels[:, kept], curves, "multilabel"), abs=1e-6)


def test_a_class_without_negatives_is_left_out_of_auroc_alone():
    probabilities, labels = random_case(7)
    labels[:, 1] = 1
    got = compute_metrics(probabilities, labels, {"AUROC": "macro", "AUPRC": "macro"}, "multilabel")
    want = literal(probabilities, labels)
    assert got["AUROC"] == pytest.approx(want["AUROC"]["macro"], abs=1e-6)
    assert got["AUPRC"] == pytest.approx(want["AUPRC"]["macro"], abs=1e-6)
    assert auprc(probabilities[:, 1], labels[:, 1]) == pytest.approx(1)


def test_an_absent_class_of_a_multiclass_task_is_left_out_of_the_curves():
    random = np.random.default_rng(8)
    number, probabilities = random.integers(0, 3, 50), random.dirichlet(np.ones(4), 50)     # nobody is of class 3
    got = compute_metrics(probabilities, number, {"AUROC": "macro"}, "multiclass")["AUROC"]
    assert got == pytest.approx(np.mean([auroc(probabilities[:, c], number == c) for c in range(3)]), abs=1e-6)


def test_without_any_defined_class_there_is_no_value():
    values = compute_metrics(np.full((4, 3), 0.4), np.zeros((4, 3)), {"AUROC": "macro", "AUPRC": "macro"}, "multilabel")
    assert math.isnan(values["AUROC"]) and math.isnan(values["AUPRC"])


# ============ what must not pass in silence ============
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_not_finite_have_no_metrics(bad):
    """NaN never wins a best checkpoint; torchmetrics would put all predictions through a sigmoid instead."""
    probabilities, labels = random_case(9)
    probabilities[3, 2] = bad
    values = compute_metrics(probabilities, labels, dict.fromkeys(NAMES, "macro"), "multilabel")
    assert values.keys() == set(NAMES) and all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_rounding_error_above_one_changes_nothing(task):
    """torchmetrics takes anything outside of [0, 1] for logits and squashes the lot."""
    random = np.random.default_rng(10)
    number, probabilities = random.integers(0, 3, 40), random.dirichlet(np.ones(3), 40)
    probabilities[0] = [1, 0, 0]
    labels = np.eye(3)[number] if task == "multilabel" else number
    metrics = dict.fromkeys(NAMES, "macro")
    want = compute_metrics(probabilities, labels, metrics, task)
    probabilities[0] = [1 + 1e-7, -1e-9, 0]
    assert compute_metrics(probabilities, labels, metrics, task) == want


def test_inputs_stay_as_they_were():
    probabilities, labels = random_case(11)
    before = probabilities.copy(), labels.copy()
    compute_metrics(probabilities, labels, dict.fromkeys(NAMES, "macro"), "multilabel")
    assert np.array_equal(before[0], probabilities) and np.array_equal(before[1], labels)


def test_the_order_of_records_does_not_matter():
    probabilities, labels = random_case(12, ties=True)
    order = np.random.default_rng(0).permutation(len(labels))
    metrics = dict.fromkeys(NAMES, "macro")
    assert compute_metrics(probabilities[order], labels[order], metrics, "multilabel") == pytest.approx(
        compute_metrics(probabilities, labels, metrics, "multilabel"), abs=1e-9)


# ============ the Challenge score ============
def test_the_challenge_score_is_that_of_util_scores():
    probabilities, labels = random_case(13, records=40, classes=24)
    got = compute_metrics(probabilities, labels, {"ChallengeScore": "macro"}, "multilabel")["ChallengeScore"]
    assert got == pytest.approx(challenge_score(labels > 0, probabilities > 0.5), abs=1e-12)


# ============ names in a config ============
def test_names_and_averages():
    got = parse_metrics(["Accuracy", {"F1Score": {"average": "macro"}}, {"AUROC": {"average": "micro"}},
                         {"AUPRC": None}])
    assert got == {"Accuracy": "micro", "F1Score": "macro", "AUROC": "micro", "AUPRC": "macro"}
    assert parse_metrics(["ChallengeScore"], ABBREVIATIONS) == {"ChallengeScore": "macro"}
    assert parse_metrics([]) == {} and set(NAMES) < set(METRICS)


@pytest.mark.parametrize("item, words", [
    ("MulticlassAUROC", "unknown metric 'MulticlassAUROC'; known: Accuracy"),
    ({"AUROC": {"average": "weighted"}}, "macro or micro"),
    ({"AUROC": {"top_k": 1}}, "macro or micro"), ({"AUROC": "macro"}, "macro or micro"), (["AUROC"], "unknown metric"),
    ("ChallengeScore", "needs dataset.classes: challenge2020"), (None, "unknown metric"),
    ({"AUROC": {}, "AUPRC": {}}, "unknown"),
])
def test_wrong_metrics_are_config_errors(item, words):
    with pytest.raises(ConfigError, match=words):
        parse_metrics([item], ("a", "b"))
    with pytest.raises(ConfigError, match="names AUROC twice"):
        parse_metrics(["AUROC", {"AUROC": {"average": "micro"}}])

"""Decoding by expected score against sums over all label sets, and against drawn ones."""

from itertools import product

import numpy as np
import pytest

from util.challenge import WEIGHTS
from util.scoring.decoding import credit_with_one_more, expected_outputs
from util.scoring.scores import challenge_score


def credit_by_definition(p, outputs, weights):
    """Expected credit of one record's outputs, summed over every label set."""
    total = 0.0
    for labels in product([0, 1], repeat=len(p)):
        labels = np.array(labels)
        chance = np.prod(np.where(labels, p, 1 - p))
        total += chance * (labels @ weights @ outputs) / max(np.sum(labels | outputs), 1)
    return total


def some_weights(rng, classes):
    weights = rng.uniform(0.1, 1, (classes, classes))
    np.fill_diagonal(weights, 1)
    return weights


@pytest.mark.parametrize("classes", [1, 2, 5, 6])
def test_credits_equal_the_sum_over_all_label_sets(classes):
    rng = np.random.default_rng(classes)
    weights, p = some_weights(rng, classes), rng.random((8, classes))
    p[0], p[1] = 0, 1  # certain labels, too
    p[2] = np.round(p[2])
    outputs = rng.random((8, classes)) < 0.4
    values = credit_with_one_more(p, outputs, weights)
    for (row, c), value in np.ndenumerate(values):
        if outputs[row, c]:
            assert value == -np.inf
        else:
            more = outputs[row] | (np.arange(classes) == c)
            assert value == pytest.approx(
                credit_by_definition(p[row], more.astype(int), weights), abs=1e-13
            )


def test_outputs_equal_the_greedy_loop_and_are_seldom_worse_than_the_best_answer():
    rng = np.random.default_rng(0)
    weights, p = some_weights(rng, 5), rng.beta(0.5, 1, (40, 5))
    credit = {}

    def value(row, outputs):
        key = row, tuple(outputs.tolist())
        if key not in credit:
            credit[key] = credit_by_definition(p[row], outputs, weights)
        return credit[key]

    best = 0
    for row, answer in enumerate(expected_outputs(p, weights)):
        outputs = np.zeros(5, int)
        while not outputs.all():
            values = [
                -1 if outputs[c] else value(row, outputs | (np.arange(5) == c)) for c in range(5)
            ]
            if max(values) <= value(row, outputs) + 1e-12:
                break
            outputs[np.argmax(values)] = 1
        assert answer.tolist() == outputs.astype(bool).tolist()
        best += (
            value(row, outputs)
            >= max(value(row, np.array(o)) for o in product([0, 1], repeat=5)) - 1e-12
        )
    assert best >= 38


def test_credits_of_the_24_classes_agree_with_drawn_label_sets():
    rng = np.random.default_rng(1)
    p = rng.beta(0.3, 2, (1, 24))
    outputs = np.zeros((1, 24), bool)
    outputs[0, [1, 20]] = True
    labels = rng.random((50_000, 24)) < p
    for c in (0, 5, 20):
        more = outputs[0].copy()
        more[c] = True
        drawn = (labels @ WEIGHTS @ more) / (labels | more).sum(axis=1)
        exact = credit_with_one_more(p, outputs)[0, c]
        assert (
            exact == -np.inf
            if c == 20
            else exact == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 50_000**0.5)
        )


def test_certain_labels_are_answered_exactly():
    labels = np.random.default_rng(2).random((700, 24)) < 0.1  # more than a block
    labels[:, 20] |= ~labels.any(axis=1)
    assert challenge_score(labels, expected_outputs(labels.astype(float))) == pytest.approx(
        1, abs=0.02
    )
    single = np.eye(24)
    assert expected_outputs(single).tolist() == single.astype(bool).tolist()


def test_calibrated_probabilities_are_decoded_better_than_thresholded():
    rng = np.random.default_rng(3)
    p = rng.beta(0.3, 2, (2000, 24))
    labels = rng.random(p.shape) < p
    by_threshold = max(
        challenge_score(labels, p >= threshold) for threshold in np.linspace(0.05, 0.6, 56)
    )
    assert challenge_score(labels, expected_outputs(p)) > by_threshold + 0.005


def test_what_is_no_probability_is_refused():
    for wrong in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            expected_outputs(np.full((1, 24), wrong))


def test_no_record_gives_no_outputs():
    assert expected_outputs(np.zeros((0, 24))).shape == (0, 24)

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


def credits_of_all_answers(p, weights):
    """Expected credit of every answer, (answers, records), and the answers."""
    answers = np.array(list(product([False, True], repeat=p.shape[1])))
    credits = np.zeros((len(answers), len(p)))
    for answer, credit in zip(answers[1:], credits[1:]):
        last = answer.nonzero()[0][-1]
        fewer = np.tile(answer & (np.arange(len(answer)) != last), (len(p), 1))
        credit[:] = credit_with_one_more(p, fewer, weights)[:, last]
    return credits, answers


def greedy(credits, answers):
    """Each record's credit where it stops at the first class that does not help."""
    places = {tuple(answer): place for place, answer in enumerate(answers.tolist())}
    found = []
    for credit in credits.T:
        answer, held = np.zeros(answers.shape[1], bool), 0.0
        while not answer.all():
            more = [answer | (np.arange(len(answer)) == c) for c in np.flatnonzero(~answer)]
            answer = max(more, key=lambda one: credit[places[tuple(one.tolist())]])
            if credit[places[tuple(answer.tolist())]] <= held:
                break
            held = credit[places[tuple(answer.tolist())]]
        found.append(held)
    return np.array(found)


@pytest.mark.parametrize("weighting", ["the Challenge's", "random"])
def test_outputs_are_the_best_of_all_answers(weighting):
    """Of 1500 records each.  The defect: some were below, as two classes helped together and
    neither alone.
    """
    rng = np.random.default_rng(0)
    classes = np.sort(rng.choice(24, 8, replace=False))
    weights = some_weights(rng, 8) if weighting == "random" else WEIGHTS[np.ix_(classes, classes)]
    p = np.concatenate([rng.beta(a, b, (500, 8)) for a, b in ((0.5, 1), (0.3, 2), (0.2, 0.5))])
    credits, answers = credits_of_all_answers(p, weights)
    places = (expected_outputs(p, weights) * 2 ** np.arange(8)[::-1]).sum(axis=1)
    found, best = credits[places, np.arange(len(p))], credits.max(axis=0)
    assert (answers[places] == expected_outputs(p, weights)).all()
    assert found == pytest.approx(best, abs=1e-9)
    assert (greedy(credits, answers) < best - 1e-4).sum() >= 2


def test_of_equal_answers_the_shortest_is_given():
    p = np.array([[0.9, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert expected_outputs(p, np.eye(3)).tolist() == [[True, False, False], [False] * 3]


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

"""By which thresholds recordings are decided, and what is said of it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from util.challenge import CLASSES
from util.errors import ConfigError
from util.predicting.contradictions import contradictions
from util.predicting.decisions import decisions
from util.scoring.decoding import expected_outputs
from util.scoring.thresholds import Thresholds

P = np.array([[0.2, 0.6, 0.45]])


def weights(name="a.pth", codes=("a", "b", "c"), task="multilabel", positives=(), **thresholds):
    return SimpleNamespace(
        path=Path(name),
        codes=codes,
        classes=codes,
        task=task,
        thresholds=thresholds,
        positives=positives,
    )


def test_thresholds_of_the_selection_fold_are_the_default_and_an_ensemble_takes_the_median():
    one = weights(f1=[0.1, 0.7, 0.5], youden=[0.9, 0.1, 0.1])
    people, challenge = decisions([one], None, None)
    assert people.outputs(P).tolist() == [[True, False, False]] and people is challenge
    assert people.words == "by F1 on the selection fold"
    assert decisions([one], "youden", None)[0].outputs(P).tolist() == [[False, True, True]]
    assert decisions([one], "0.5", None)[0].outputs(P).tolist() == [[False, True, False]]
    three = [one, weights(f1=[0.3, 0.5, 0.4]), weights(f1=[0.3, 0.5, 0.4])]
    found, _ = decisions(three, None, None)
    np.testing.assert_allclose(found.thresholds, [0.3, 0.5, 0.4])
    assert found.words.endswith("median of 3 weights")


def test_a_sensitivity_between_the_kept_steps_takes_the_next_higher():
    kept = {"sensitivity=0.90": [0.4] * 3, "sensitivity=0.91": [0.3] * 3}
    found, _ = decisions([weights(**kept)], "sensitivity=0.905", None)
    assert found.thresholds.tolist() == [0.3] * 3 and "sensitivity=0.91" in found.words
    found, _ = decisions([weights(**kept)], "sensitivity=.9", None)
    assert found.thresholds.tolist() == [0.4] * 3


def test_thresholds_that_few_records_chose_are_said(capsys):
    one = weights(f1=[0.5] * 3, positives=(1, 40, 3))
    found, _ = decisions([one], None, None)
    assert found.unsure == {0, 2}
    assert "which say little: a (1), c (3)" in capsys.readouterr().out
    found, _ = decisions([one, weights(f1=[0.5] * 3, positives=(2, 0, 3))], None, None)
    assert found.unsure == {0} and "a (3)" in capsys.readouterr().out
    assert not decisions([one], "0.5", None)[0].unsure


def test_weights_without_thresholds_are_decided_at_one_half_and_it_is_said(capsys):
    found, _ = decisions([weights()], None, None)
    assert found.outputs(P).tolist() == [[False, True, False]]
    said = capsys.readouterr().out
    assert "a.pth keeps none of its selection fold by f1, so every class is decided at 0.5" in said
    decisions([weights()], "0.5", None)
    assert not capsys.readouterr().out


def test_a_search_for_the_challenge_decides_its_csv_alone():
    p = np.random.default_rng(0).random((5, 24)) / 3
    ours = weights(codes=CLASSES, f1=[0.9] * 24)
    decoder = Thresholds(None, 0.5, 10, "expected score")
    people, challenge = decisions([ours], None, decoder)
    assert not people.outputs(p).any()
    np.testing.assert_array_equal(challenge.outputs(p), expected_outputs(p))
    people, _ = decisions([ours], "expected", None)
    np.testing.assert_array_equal(people.outputs(p), expected_outputs(p))
    given = Thresholds(np.full(24, 0.2), 0.5, 10, "ascent")
    people, challenge = decisions([ours], None, given)
    assert people is challenge and people.words == "by ascent (--thresholds)"


@pytest.mark.parametrize(
    "rule, ours, said",
    [
        ("best", weights(), "no such rule; known: youden, f1, sensitivity=S"),
        ("sensitivity=2", weights(), "no such rule"),
        ("expected", weights(), "Challenge's 24 classes, which these weights do not predict"),
        ("f1", weights(task="multiclass"), "these weights .multiclass. do not predict"),
    ],
)
def test_what_cannot_be_decided_so_has_a_sentence(rule, ours, said):
    with pytest.raises(ConfigError, match=said):
        decisions([ours], rule, None)


def test_thresholds_of_other_classes_are_refused():
    with pytest.raises(ConfigError, match="of 24 classes .IAVB, AF, AFL ...., which"):
        decisions([weights()], None, Thresholds(np.full(24, 0.5), 0.5, 10, "ascent"))


@pytest.mark.parametrize(
    "codes, expected",
    [
        (("427084000", "426177001", "164934002"), [(0, 1)]),  # sinus tachycardia, bradycardia
        (("164889003", "426783006", "164909002"), [(0, 1)]),  # AF, sinus rhythm
        (("AFIB", "CRBBB", "LBBB", "SARRH"), [(0, 3), (1, 2)]),  # names of tables
        (("59118001", "713426002"), [(0, 1)]),  # of two codes that mean the same, the other
        (("NORM", "MI", "HYP"), [(0, 1), (0, 2)]),
        (("426783006", "270492004", "284470004"), []),  # sinus rhythm with block, extrasystoles
        (("MI", "HYP", "CD"), []),
    ],
)
def test_outputs_that_exclude_each_other_are_found(codes, expected):
    assert contradictions(codes, np.ones(len(codes), bool)) == expected
    assert contradictions(codes, np.eye(len(codes), dtype=bool)[0]) == []

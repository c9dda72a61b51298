"""The Challenge's tables, against the golden copy of the figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from util.challenge import (
    ABBREVIATIONS,
    CLASSES,
    CODE_TO_CLASS,
    NAMES,
    NORMAL,
    WEIGHTS,
    labels_from_dx,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "challenge_metrics.json").read_text())


def test_class_order_is_the_golden_one():
    assert list(CLASSES) == GOLDEN["classes"]
    assert NORMAL == GOLDEN["normal_index"] and CLASSES[NORMAL] == GOLDEN["normal_class"]
    assert ABBREVIATIONS[NORMAL] == "NSR" and NAMES[NORMAL] == "sinus rhythm"
    assert len(set(ABBREVIATIONS)) == len(set(NAMES)) == len(CLASSES) == 24


def test_weights_are_the_golden_doubles():
    assert np.array_equal(WEIGHTS, np.array(GOLDEN["weights"]))
    assert np.array_equal(WEIGHTS, WEIGHTS.T) and np.all(np.diag(WEIGHTS) == 1)


def test_weights_cannot_be_changed_by_accident():
    with pytest.raises(ValueError):
        WEIGHTS[0, 0] = 2


def test_27_codes_make_24_classes():
    assert len(CODE_TO_CLASS) == 27
    assert [CODE_TO_CLASS[code] for code in CLASSES] == list(range(24))
    for kept, merged in GOLDEN["equivalent_classes"]:
        assert CODE_TO_CLASS[kept] == CODE_TO_CLASS[merged] == CLASSES.index(kept)


def test_labels_from_dx():
    labels = labels_from_dx(["164889003 59118001", "", "63593006,284470004, 1234567", "1648890030"])
    assert labels.shape == (4, 24) and labels.dtype == bool
    assert [ABBREVIATIONS[i] for i in np.flatnonzero(labels[0])] == ["AF", "CRBBB"]
    assert [ABBREVIATIONS[i] for i in np.flatnonzero(labels[2])] == ["PAC"]
    assert not labels[1].any() and not labels[3].any()
    assert labels_from_dx([]).shape == (0, 24)

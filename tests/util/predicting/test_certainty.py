"""What a page and its JSON say of how sure an ensemble is."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from util.errors import ConfigError
from util.predicting.certainty import Certainty, certainty_of
from util.scoring.calibration import LabelSets, tempered

NAMES = ("AF", "LBBB", "PVC", "rare")
P = np.array([0.8, 0.4, 0.1, 0.2])


def sets(present, absent, coverage=0.9):
    return LabelSets(coverage, np.array(present), np.array(absent))


def weights(name="a.pth", temperature=None, **kept):
    return SimpleNamespace(path=Path(name), temperature=temperature, sets=kept.get("sets", {}))


FIRST = sets([0.3, 0.35, 0.3, 0.0], [0.5, 0.5, 0.5, 0.5])


def test_a_page_names_what_is_present_open_absent_and_too_rare():
    outputs = np.array([True, False, False, False])
    calibrated, said = Certainty(1.5, FIRST).lines(P, outputs, NAMES)
    assert calibrated == f"Calibrated (temperature 1.50): AF {tempered(P, 1.5)[0]:.2f}"
    assert said == (
        "90% label sets: present: AF; open: LBBB; absent: 1 of 4 classes; too rare on the "
        "selection fold to rule out: 1"
    )
    (alone,) = Certainty(1.5, FIRST).lines(P, np.zeros(4, bool), NAMES)
    assert alone == said and Certainty().lines(P, outputs, NAMES) == []


def test_json_has_the_set_of_each_class():
    facts = Certainty(2.0, FIRST).facts(P)
    assert [one["label_set"] for one in facts] == [
        ["present"],
        ["present", "absent"],
        ["absent"],
        ["present", "absent"],
    ]
    assert facts[0]["calibrated"] == pytest.approx(2 / 3, abs=1e-6)  # logit 1.386, halved
    assert Certainty().facts(P) == [{}, {}, {}, {}]


def test_several_weights_take_the_widest_limits_and_say_so(capsys):
    one = weights(temperature=1.0, sets={0.9: FIRST})
    other = weights(temperature=2.0, sets={0.9: sets([0.1, 0.9, 0.3, 0.0], [0.2, 0.6, 0.5, 0.5])})
    found = certainty_of([one, other], None)
    assert found.temperature == 1.5 and found.sets.present.tolist() == [0.1, 0.35, 0.3, 0.0]
    assert "label sets of 2 weights: the widest limits" in capsys.readouterr().out


def test_weights_that_keep_none_say_nothing_unless_asked():
    assert certainty_of([weights()], None) == Certainty()
    with pytest.raises(ConfigError, match="a.pth keeps no label sets .* train anew"):
        certainty_of([weights()], 0.9)
    with pytest.raises(ConfigError, match="--coverage 0.7: weights keep 0.8, 0.9, 0.95"):
        certainty_of([weights(sets={0.9: FIRST})], 0.7)

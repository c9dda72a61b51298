"""What the limb leads say of their order and signs."""

import numpy as np
import pytest

from util.leads import LEADS
from util.recordings.lead_order import gram, likely_limb, relations_hold, turned_lead


@pytest.fixture
def signal():
    """Float64 (n, 12) in mV whose limb leads follow from I and II, with offsets and rounding."""
    rng = np.random.default_rng(3)
    leads = rng.normal(0, 0.4, (2000, 8)).cumsum(0) / 20
    one, two = leads[:, 0], leads[:, 1]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.rint(np.stack([*limb, *leads[:, 2:].T], 1) * 200) / 200 + rng.normal(0, 1, 12)


def test_right_leads_hold_and_are_their_only_order(signal):
    matrix = gram(signal)
    assert relations_hold(matrix, range(6)) and turned_lead(matrix, range(6)) is None
    assert likely_limb(matrix) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("seed", range(5))
def test_any_order_is_found(signal, seed):
    order = np.random.default_rng(seed).permutation(12)
    limb = likely_limb(gram(signal[:, order]))
    assert [LEADS[order[place]] for place in limb] == list(LEADS[:6])


@pytest.mark.parametrize("lead", range(6))
def test_a_turned_sign_is_found(signal, lead):
    signal[:, lead] *= -1
    matrix = gram(signal)
    assert not relations_hold(matrix, range(6)) and turned_lead(matrix, range(6)) == lead


def test_unrelated_or_flat_leads_have_no_order(signal):
    noise = gram(np.random.default_rng(0).normal(size=(2000, 12)))
    assert likely_limb(noise) is None and turned_lead(noise, range(6)) is None
    assert likely_limb(gram(0 * signal)) is None

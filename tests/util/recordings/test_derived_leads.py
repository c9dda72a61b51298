"""Limb leads that follow from two others."""

from itertools import combinations

import numpy as np
import pytest

from tests.support.wfdb_files import ecg_counts
from util.leads import LEADS
from util.recordings.derived_leads import with_derived_leads
from util.recordings.recording import Recording, checked

EIGHT = ("I", "II", *LEADS[6:])


def twelve():
    """Float32 (n, 12) in mV of whole even microvolts, whose limb leads follow from I and II."""
    signal = 2 * ecg_counts().astype(int)
    one, two = signal[:, 0], signal[:, 1]
    limb = [one, two, two - one, -(one + two) // 2, one - two // 2, two - one // 2]
    signal[:, :6] = np.stack(limb, axis=1)
    return (signal / 1000).astype(np.float32)


def of(leads, signal, **about):
    """The recording of some leads of a signal (n, 12), checked."""
    columns = [LEADS.index(lead) for lead in leads]
    return checked(Recording(signal[:, columns].copy(), tuple(leads), 500.0, **about))


@pytest.mark.parametrize("pair", [*combinations(LEADS[:3], 2)], ids="-".join)
@pytest.mark.parametrize("others", [(), LEADS[6:], ("aVF",), ("aVR", "V3")])
def test_any_two_of_three_give_all_six_to_the_microvolt(pair, others):
    signal = twelve()
    derived = with_derived_leads(of([*pair, *others], signal))
    assert derived.leads == tuple(lead for lead in LEADS if lead in {*LEADS[:6], *others})
    columns = [LEADS.index(lead) for lead in derived.leads]
    counts = np.rint(derived.signal * np.float32(1000))
    np.testing.assert_array_equal(counts, np.rint(signal[:, columns] * np.float32(1000)))
    missing = [lead for lead in LEADS[:6] if lead not in (*pair, *others)]
    assert derived.flags == (f"{', '.join(missing)} derived from {' and '.join(pair)}",)


@pytest.mark.parametrize("leads", [LEADS, LEADS[:6], LEADS[6:], ("II",), ("I", "aVF", "V1")])
def test_nothing_to_add_or_nothing_to_add_it_from(leads):
    recording = of(leads, twelve(), flags=("a remark",))
    assert with_derived_leads(recording) is recording


def test_leads_that_are_there_stay_and_flat_ones_are_no_source():
    signal = twelve()
    signal[:, 2] += 0.3  # III does not follow
    derived = with_derived_leads(of(("I", "II", "III"), signal, flags=("a remark",)))
    np.testing.assert_array_equal(derived.signal[:, 2], signal[:, 2])
    assert derived.flags == ("a remark", "aVR, aVL, aVF derived from I and II")
    signal[:, 0] = 0.1
    assert with_derived_leads(of(EIGHT, signal)).leads == EIGHT
    signal = twelve()
    signal[:, 0] = 0
    derived = with_derived_leads(of(("I", "II", "III"), signal))
    assert derived.flags == ("aVR, aVL, aVF derived from II and III",)
    assert not derived.signal[:, 0].any()


def test_a_lead_without_a_sample_is_derived_anew():
    signal = twelve()
    given = signal.copy()
    given[:, 2:6] = np.nan
    derived = with_derived_leads(checked(Recording(given, LEADS, 500.0)))
    np.testing.assert_allclose(derived.signal, signal, atol=1e-6)
    assert derived.flags[0].startswith("no sample of III")

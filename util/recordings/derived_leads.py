"""Limb leads that follow from two others."""

from dataclasses import replace
from itertools import combinations

import numpy as np

from util.leads import LEADS
from util.recordings.lead_order import LIMB
from util.recordings.recording import Recording

DERIVED = "derived from"  # in the remark on a recording


def with_derived_leads(recording: Recording) -> Recording:
    """Return a checked recording with the limb leads that follow from two of I, II and III.

    By Einthoven III = II - I, by Goldberger aVR = -(I + II) / 2, aVL = I - II / 2 and
    aVF = II - I / 2.  A lead that is there stays as it is, and none follows from a flat one.  A
    remark names the leads that were added.
    """
    there = recording.leads
    missing = [lead for lead in LIMB if lead not in there]
    pair = _sources(recording) if missing else None
    if not pair:
        return recording
    rows = dict(zip(there, recording.signal.T))
    follows = limb_leads({lead: rows[lead] for lead in pair})
    leads = tuple(lead for lead in LEADS if lead in there or lead in missing)
    signal = np.stack([rows[lead] if lead in there else follows[lead] for lead in leads])
    flag = f"{', '.join(missing)} {DERIVED} {' and '.join(pair)}"
    return replace(recording, signal=signal.T, leads=leads, flags=(*recording.flags, flag))


def _sources(recording: Recording) -> tuple[str, str] | None:
    """The first two of I, II and III that are there and not flat."""
    signal, leads = recording.signal, recording.leads
    moving = [
        lead for lead in LIMB[:3] if lead in leads and np.ptp(signal[:, leads.index(lead)]) > 0
    ]
    return next(combinations(moving, 2), None)


def limb_leads(two: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all six limb leads of two among I, II and III."""
    one = two["I"] if "I" in two else two["II"] - two["III"]
    second = two["II"] if "II" in two else two["I"] + two["III"]
    return {
        "I": one,
        "II": second,
        "III": second - one,
        "aVR": -(one + second) / 2,
        "aVL": one - second / 2,
        "aVF": second - one / 2,
    }

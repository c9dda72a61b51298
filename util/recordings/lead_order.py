"""Whether limb leads are what they are called: III = II - I and Goldberger's relations say so.

All is computed from the Gram matrix of the leads (leads, leads): the power of any sum of leads w
is w G w.
"""

from collections.abc import Sequence

import numpy as np

from util.leads import LEADS

LIMB = LEADS[:6]
# How III, aVR, aVL and aVF follow from I and II.
_FROM_TWO = np.array([[-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])
TOLERANCE = 0.1  # of the limb leads' mean amplitude: filters and rounding stay below, others do not


def gram(signal: np.ndarray) -> np.ndarray:
    """Return the Gram matrix (leads, leads) of a signal (n, leads), offsets taken out."""
    centred = signal - signal.mean(0, dtype=np.float64)
    return centred.T @ centred / len(signal)


def relations_hold(matrix: np.ndarray, limb: Sequence[int]) -> bool:
    """Return whether six leads, by their places in a Gram matrix, follow from the first two."""
    return bool(_errors(matrix, limb[0], limb[1], limb[2:]).max() <= TOLERANCE)


def _errors(matrix: np.ndarray, one: int, two: int, columns: Sequence[int]) -> np.ndarray:
    """What is left of each of four leads when those that follow from I and II are taken away."""
    weights = np.zeros((4, len(matrix)))
    weights[:, one], weights[:, two] = -_FROM_TWO[:, 0], -_FROM_TWO[:, 1]
    weights[range(4), columns] += 1
    power = np.einsum("ij,jk,ik->i", weights, matrix, weights).clip(0)
    mean = np.diag(matrix)[[one, two, *columns]].mean()
    return np.sqrt(power / mean) if mean > 0 else np.full(4, np.inf)


def likely_limb(matrix: np.ndarray) -> list[int] | None:
    """Return the places of I, II, III, aVR, aVL and aVF among the leads of a Gram matrix.

    None where no six of them follow from two, or more than one choice does.
    """
    number, fitting = len(matrix), []
    for one in range(number):
        for two in set(range(number)) - {one}:
            others = [place for place in range(number) if place not in (one, two)]
            each = np.stack([_errors(matrix, one, two, [place] * 4) for place in others])
            limb = [one, two, *(others[best] for best in each.argmin(0))]
            if len(set(limb)) == 6 and relations_hold(matrix, limb):
                fitting.append(limb)
    return fitting[0] if len(fitting) == 1 else None


def turned_lead(matrix: np.ndarray, limb: Sequence[int]) -> int | None:
    """Return which of six limb leads, from 0, follows from the others with its sign turned.

    None if none does, or more than one could be it.
    """
    turned = []
    for lead, place in enumerate(limb):
        signs = np.ones(len(matrix))
        signs[place] = -1
        if relations_hold(matrix * signs[:, None] * signs, limb):
            turned.append(lead)
    return turned[0] if len(turned) == 1 else None

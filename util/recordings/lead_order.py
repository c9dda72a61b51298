"""Whether limb leads are what they are called: III = II - I and Goldberger's relations say so.

All is computed from the Gram matrix of the leads (leads, leads): the power of any sum of leads w
is w G w.
"""

import itertools
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


def relations_hold(matrix: np.ndarray, limb: Sequence[int | None]) -> bool:
    """Return whether limb leads follow from the first two.

    Args:
        limb: places of I, II, III, aVR, aVL and aVF in a Gram matrix; None for one of the last
            four that is not there.
    """
    one, two, *columns = limb
    return one is not None and two is not None and _holds(matrix, one, two, columns)


def _holds(matrix: np.ndarray, one: int, two: int, columns: Sequence[int | None]) -> bool:
    return bool(_errors(matrix, one, two, columns).max() <= TOLERANCE)


def _errors(matrix: np.ndarray, one: int, two: int, columns: Sequence[int | None]) -> np.ndarray:
    """What is left of each of four leads when those that follow from I and II are taken away."""
    rows = [row for row, column in enumerate(columns) if column is not None]
    there = [column for column in columns if column is not None]
    weights = np.zeros((len(rows), len(matrix)))
    weights[:, one], weights[:, two] = -_FROM_TWO[rows, 0], -_FROM_TWO[rows, 1]
    weights[range(len(rows)), there] += 1
    power = np.einsum("ij,jk,ik->i", weights, matrix, weights).clip(0)
    mean = np.diag(matrix)[[one, two, *there]].mean()
    return np.sqrt(power / mean) if mean > 0 else np.full(len(rows), np.inf)


def likely_limb(matrix: np.ndarray) -> list[int] | None:
    """Return the places of I, II, III, aVR, aVL and aVF among the leads of a Gram matrix.

    None where no six of them follow from two, or more than one choice does.
    """
    fitting = []
    for one, two in itertools.permutations(range(len(matrix)), 2):
        limb = [one, two, *_errors_of_each(matrix, one, two).argmin(1).tolist()]
        if len(set(limb)) == 6 and _holds(matrix, one, two, limb[2:]):
            fitting.append(limb)
    return fitting[0] if len(fitting) == 1 else None


def _errors_of_each(matrix: np.ndarray, one: int, two: int) -> np.ndarray:
    """(4, leads): the error that each lead would have as III, aVR, aVL and aVF."""
    power, (a, b) = np.diag(matrix), _FROM_TWO.T[:, :, None]
    left = power + a * a * power[one] + b * b * power[two] + 2 * a * b * matrix[one, two]
    left = (left - 2 * a * matrix[one] - 2 * b * matrix[two]).clip(0)
    mean = (power[one] + power[two] + 4 * power) / 6
    errors = np.sqrt(np.divide(left, mean, out=np.full(left.shape, np.inf), where=mean > 0))
    errors[:, [one, two]] = np.inf
    return errors


def likely_turned(matrix: np.ndarray) -> tuple[list[int] | None, int | None]:
    """Return what ``likely_limb`` does if the sign of one lead is turned, and that lead's place.

    None and None where it is no lead's, or could be that of several.
    """
    fitting = []
    for place in range(len(matrix)):
        limb = likely_limb(_with_turned(matrix, place))
        if limb and place in limb:
            fitting.append((limb, place))
    return fitting[0] if len(fitting) == 1 else (None, None)


def turned_lead(matrix: np.ndarray, limb: Sequence[int | None]) -> int | None:
    """Return which of six limb leads, from 0, follows from the others with its sign turned.

    None if none does, or more than one could be it.

    Args:
        limb: see ``relations_hold``.
    """
    turned = [
        lead
        for lead, place in enumerate(limb)
        if place is not None and relations_hold(_with_turned(matrix, place), limb)
    ]
    return turned[0] if len(turned) == 1 else None


def _with_turned(matrix: np.ndarray, place: int) -> np.ndarray:
    """A Gram matrix with the sign of one lead turned."""
    signs = np.ones(len(matrix))
    signs[place] = -1
    return matrix * signs[:, None] * signs

"""Outputs of a high expected Challenge score, straight from probabilities: no thresholds and no
search.

A record's part of the Challenge score's numerator is sum_ij L_i W_ij O_j / max(|L or O|, 1).
With labels independent and true with the predicted probabilities p, the expectation for outputs O
is

    sum_i p_i (W O)_i E[1 / |O or L| given L_i = 1],

where |O or L| is |O| plus the number of labels outside O, a Poisson binomial variable K.  For m
>= 1

    E[1 / (m + K)] = integral over t in (0, 1) of t^(m-1) prod_j (1 - p_j + p_j t)  dt,

a polynomial of degree less than the number of classes, so Gauss-Legendre quadrature with half as
many nodes is exact. A class taken out of the product is a division, so all candidates of all
records come from a few matrix products.
"""

import numpy as np

from util.challenge import WEIGHTS

BLOCK = 512  # records at a time, which bounds the memory
TIE = 1e-12  # an expected credit higher by less is equal but for rounding


def expected_outputs(probabilities: np.ndarray, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """Return outputs of the highest expected credit that a path finds, bool (records, classes).

    From the empty answer on, each record adds the class that then has the highest expected
    credit, until it has all; the best answer on this path counts, of equal ones the shortest.
    To stop at the first class that does not help misses answers in which two help together.  No
    proof says that none off the path is better; trials over all answers found none (see the
    test).

    Args:
        probabilities: of independent labels, (records, classes), no NaN.
        weights: credit of each [true, output class], (classes, classes).
    """
    probabilities = np.asarray(probabilities, np.float64)
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("probabilities must lie between 0 and 1")
    outputs = np.zeros(probabilities.shape, bool)
    for start in range(0, len(outputs), BLOCK):
        _climb(probabilities[start : start + BLOCK], outputs[start : start + BLOCK], weights)
    return outputs


def _climb(probabilities: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> None:
    """Put each record's best answer of the path into ``outputs``, none of them so far."""
    credit, rows = np.zeros(len(outputs)), np.arange(len(outputs))
    path = np.zeros_like(outputs)
    for _ in range(outputs.shape[1]):
        values = credit_with_one_more(probabilities, path, weights)
        best = values.argmax(axis=1)
        highest = values[rows, best]
        path[rows, best] = True
        better = highest > credit + TIE
        outputs[better], credit[better] = path[better], highest[better]


def credit_with_one_more(
    probabilities: np.ndarray, outputs: np.ndarray, weights: np.ndarray = WEIGHTS
) -> np.ndarray:
    """Return the expected credit of each record's outputs with each class added to them.

    Returns:
        (records, classes); minus infinity for a class that is among the outputs.
    """
    nodes, shares = np.polynomial.legendre.leggauss((len(weights) + 1) // 2)
    t, shares = (nodes + 1) / 2, shares / 2  # from (-1, 1) to (0, 1)
    p, chosen = probabilities[:, None], outputs[:, None]  # (records, 1, classes)
    factors = 1 - p * (1 - t)[:, None]  # (records, nodes, classes)
    # labels outside the outputs, (records, nodes)
    outside = np.where(chosen, 1, factors).prod(axis=2)
    # still with the added class's factor
    kernel = shares * t ** outputs.sum(axis=1)[:, None] * outside
    # Chance of a true class, over the product: outside the outputs, it is one more of the union
    # for certain.
    true = np.where(chosen, p, p * t[:, None] / factors)
    present = outputs @ weights.T  # (W O)_i, (records, classes)
    credit = np.vecdot(true, present[:, None])[..., None] + true @ weights
    # the added class is within the outputs
    credit += (p - true) * (present + np.diag(weights))[:, None]
    # NumPy's stubs do not know that vecdot has an axis
    values = np.vecdot(kernel[..., None], credit / factors, axis=1)  # type: ignore[call-overload]
    return np.where(outputs, -np.inf, values)

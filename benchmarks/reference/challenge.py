"""The Challenge score and its published threshold search as loops written from the definition."""

import numpy as np

from util.challenge import CLASSES, NORMAL, WEIGHTS
from util.scoring.thresholds import PUBLISHED_CANDIDATES, apply_thresholds


def loop_numerator(labels, outputs):
    """s(O) of the definition: the matrix A, record by record, then its product with the weights."""
    matrix = np.zeros(WEIGHTS.shape)
    for truth, answer in zip(labels, outputs):
        share = 1 / max(np.sum(truth | answer), 1)
        for j in np.flatnonzero(truth):
            for k in np.flatnonzero(answer):
                matrix[j, k] += share
    return np.sum(WEIGHTS * matrix)


def loop_score(labels, outputs):
    """The Challenge score by ``loop_numerator`` of the outputs, of the labels and of sinus rhythm
    for all.
    """
    inactive = np.zeros_like(labels)
    inactive[:, NORMAL] = True
    nothing, perfect = loop_numerator(labels, inactive), loop_numerator(labels, labels)
    return (loop_numerator(labels, outputs) - nothing) / (perfect - nothing)


def loop_search(labels, scores):
    """The published search by ``loop_score``, each candidate anew: thresholds (24,)."""
    found = np.full(len(CLASSES), PUBLISHED_CANDIDATES[0])
    for c in range(len(CLASSES)):
        results = []
        for candidate in PUBLISHED_CANDIDATES:
            thresholds = np.full(len(CLASSES), PUBLISHED_CANDIDATES[0])
            thresholds[c] = candidate
            results.append(loop_score(labels, apply_thresholds(scores, thresholds)))
        found[c] = PUBLISHED_CANDIDATES[int(np.argmax(results))]
    return found

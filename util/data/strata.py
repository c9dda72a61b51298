"""A share of the labels: nested, stratified subsets of training records, whole patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

# of a stratum's next patients, the one is taken whose other labels are wanted most
CANDIDATES = 16
BINS = 5  # of equal numbers of records, a regression's strata


def label_strata(labels: np.ndarray, task: str) -> np.ndarray:
    """Return labels as strata, bool (records, strata), over which folds and subsets are spread.

    Args:
        labels: multilabel: (records, classes) of 0, 1 and NaN (unknown); multiclass: (records,)
            class numbers, NaN or negative where unknown; regression: (records,) or (records,
            values), NaN where unknown.
        task: multilabel, multiclass or regression.
    """
    if task == "multilabel":
        return labels > 0
    if task == "multiclass":
        return labels[:, None] == np.arange(np.nanmax(labels) + 1)
    return np.concatenate([_bins(values) for values in labels.reshape(len(labels), -1).T], axis=1)


def _bins(values: np.ndarray) -> np.ndarray:
    """bool (records, bins) of numbers, by their quantiles; NaN is in no bin."""
    known = values[~np.isnan(values)]
    edges = np.empty(0)
    if len(known):
        edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS))
    number = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
    return number[:, None] == np.arange(len(edges) + 1)


def patient_numbers(patients: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return a number for each record's patient, int64 (records,).

    They count from 0 in the order of the patients' first records; a record of an unknown patient
    ("") has a number of its own.
    """
    patients = np.asarray(patients, object)
    return pd.factorize(np.where(patients == "", np.arange(len(patients)), patients))[0]


def fraction_of(
    rows: np.ndarray, fraction: float, strata: np.ndarray, patients: np.ndarray, seed: int
) -> np.ndarray:
    """Return a share of ``rows``, in their order: the smaller of two shares is part of the larger.

    Patients (a record without one is its own) are taken one after another until the share is
    full, so it may exceed it by less than a patient.  Next comes always a patient of the stratum
    of whose records the smallest share is taken, of equals the rarest: every stratum has a record
    before one has two, where there are enough. The order of the records, which breaks all ties,
    depends on ``seed`` alone, not on the fold.

    Args:
        rows: int64 (n,), of the store.
        fraction: the share, of 1.
        strata: bool (records of the store, strata).
        patients: texts (records of the store,), "" where unknown.
        seed: of the order.
    """
    wanted = max(1, round(len(rows) * fraction))
    order = np.random.default_rng([seed, 2]).permutation(len(strata))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows_drawn = rows[np.argsort(place[rows])]  # in the order of the draw
    groups = patient_numbers(patients[rows_drawn])
    sizes = np.bincount(groups)
    members = strata[rows_drawn]
    members = np.column_stack([members, ~members.any(axis=1)])  # those of no stratum are one, too
    counts = np.zeros((len(sizes), members.shape[1]))
    np.add.at(counts, groups, members)
    chosen = _chosen_groups(counts, sizes, wanted)
    return np.sort(rows_drawn[chosen[groups]])


def _chosen_groups(counts: np.ndarray, sizes: np.ndarray, wanted: int) -> np.ndarray:
    """Which groups, bool (groups,), fill ``wanted`` records; counts: (groups, strata), records of
    each stratum.
    """
    totals = counts.sum(axis=0)
    share = 1 / np.maximum(totals, 1)  # a record's part of each stratum
    queues = [np.flatnonzero(column) for column in counts.T]
    heads = np.zeros(len(queues), np.int64)
    taken, chosen, filled = np.zeros(len(totals)), np.zeros(len(sizes), bool), 0
    by_size = np.argsort(totals, kind="stable")
    while filled < wanted:
        # Serve the stratum of which the smallest share is taken; equals, the rarest first
        level = np.where(taken < totals, taken * share, np.inf)
        stratum = by_size[level[by_size].argmin()]
        queue = queues[stratum]
        while chosen[queue[heads[stratum]]]:
            heads[stratum] += 1
        waiting = queue[heads[stratum] : heads[stratum] + CANDIDATES]
        waiting = waiting[~chosen[waiting]]
        # How far each would push its strata ahead of this one
        ahead = np.maximum((taken + counts[waiting]) * share - level[stratum], 0)
        ahead *= counts[waiting] > 0
        group = waiting[ahead.sum(axis=1).argmin()]
        chosen[group] = True
        taken += counts[group]
        filled += sizes[group]
    return chosen

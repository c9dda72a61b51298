"""Stratified folds: every label spread evenly, one patient's records together.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label
data, ECML PKDD 2011): the rarest label left is dealt out first, each record to the fold that
still wants most of it.  Here the unit that is dealt is a patient; a record without a patient id
is its own.
"""

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from util.challenge import CODE_TO_CLASS, labels_from_dx
from util.data.store import FOLDS, NO_FOLD
from util.data.strata import patient_numbers

MIN_RECORDS = 10  # a code that fewer records of a database carry cannot be in every fold


def assign_folds(
    databases: Sequence[str],
    dx: Sequence[str],
    patients: Sequence[str],
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Deal every record into a fold, within each database.

    Records with one of the Challenge's classes, or of ``strata`` where these are given, come
    first, stratified over those; then the others, over their codes of at least MIN_RECORDS
    records, so that both kinds together are spread; last those without any code.

    Args:
        databases: names (N).
        dx: texts of SNOMED CT codes (N).
        patients: ids (N), "" where unknown; the same id in two databases is two patients.
        seed: of the ties that are broken by lot.
        strata: bool (N, strata) of the labels that folds are for, see ``label_strata``.

    Returns:
        int64 (N,): 0 to FOLDS - 1.  The folds of one database do not depend on the others.
    """
    database_of, patient_of = np.asarray(databases), np.asarray(patients, object)
    folds = np.full(len(dx), NO_FOLD)
    for database in sorted(set(database_of.tolist())):
        rows, number = np.flatnonzero(database_of == database), zlib.crc32(database.encode())
        texts, ids = [dx[row] for row in rows.tolist()], patient_of[rows]
        labels = labels_from_dx(texts) if strata is None else strata[rows]
        scored, dealt = labels.any(1), np.full(len(rows), NO_FOLD)
        rng = np.random.default_rng([seed, number])
        dealt[scored] = stratify(labels[scored], patient_numbers(ids[scored]), FOLDS, rng)
        count = Counter(code for text in texts for code in set(text.split()) - CODE_TO_CLASS.keys())
        others = {code: {code} for code in sorted(count) if count[code] >= MIN_RECORDS}
        rng = np.random.default_rng([seed, number, 1])
        codes = labels_from_dx(texts, others)
        folds[rows] = stratify(codes, patient_numbers(ids), FOLDS, rng, dealt)
    return folds


def stratify(
    labels: np.ndarray,
    groups: np.ndarray,
    n_folds: int,
    rng: np.random.Generator,
    dealt: np.ndarray | None = None,
) -> np.ndarray:
    """Deal groups into folds by iterative stratification; return the folds, int64 (n,).

    Args:
        labels: bool (n, classes).
        groups: int64 (n,), numbered from 0 without gaps; records of a group share a fold.
        n_folds: how many.
        rng: breaks ties.
        dealt: int64 (n,), folds that are given already, which go for the whole group, and
            NO_FOLD.
    """
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    # (groups, classes): records of a group with a label.
    counts = np.zeros((n_groups, labels.shape[1]), np.int32)
    np.add.at(counts, groups, labels)
    sizes = np.bincount(groups, minlength=n_groups).astype(float)
    # (folds, classes): records with a label still wanted.
    wanted = np.tile(counts.sum(0) / n_folds, (n_folds, 1))
    room = np.full(n_folds, sizes.sum() / n_folds)  # (folds,): records still wanted
    share = 1 / np.maximum(counts.sum(0), 1)  # a rare label weighs as much as a common one
    fold_of_group = np.full(n_groups, NO_FOLD)
    if dealt is not None:
        np.maximum.at(fold_of_group, groups, dealt)
        for fold in range(n_folds):
            wanted[fold] -= counts[fold_of_group == fold].sum(0)
            room[fold] -= sizes[fold_of_group == fold].sum()
    left, order = counts[fold_of_group < 0].sum(0), rng.random(n_groups)
    while (fold_of_group < 0).any():
        label = np.where(left > 0, left, np.inf).argmin() if (left > 0).any() else None
        weight = sizes if label is None else counts[:, label]
        chosen = np.flatnonzero((fold_of_group < 0) & (weight > 0))
        # Large groups first: they are the hardest to place; equals in random order.
        for group in chosen[np.lexsort((order[chosen], -sizes[chosen], -weight[chosen]))]:
            first = room if label is None else wanted[:, label]
            fold = _neediest_fold(first, wanted @ (counts[group] * share), room, rng)
            fold_of_group[group] = fold
            wanted[fold] -= counts[group]
            room[fold] -= sizes[group]
        left -= counts[chosen].sum(0)
    return fold_of_group[groups] if n_groups else np.zeros(0, np.int64)


def _neediest_fold(label, all_labels, room, rng):
    """The fold that wants most of this label, then of all the labels of the group, then of
    records, then by lot.
    """
    best = np.flatnonzero(label > label.max() - 1e-9)
    for measure in (all_labels, room):
        if len(best) > 1:
            best = best[measure[best] > measure[best].max() - 1e-9]
    return best[0] if len(best) == 1 else best[int(rng.random() * len(best))]

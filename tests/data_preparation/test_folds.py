import hashlib

import numpy as np
import pytest

from data_preparation.building import folds as folding
from data_preparation.building.folds import stratify
from util.challenge import CLASSES, CODE_TO_CLASS
from util.data.strata import label_strata


def realistic_labels(n, seed=0):
    """bool (n, 24): a few common and many rare classes, correlated, a tenth of the records
    without any.
    """
    rng = np.random.default_rng(seed)
    share = 0.5 / 1.3 ** np.arange(24)
    labels = rng.random((n, 24)) < share
    labels[:, 5] |= labels[:, 1] & (rng.random(n) < 0.5)
    labels[rng.random(n) < 0.1] = False
    return labels


def assign_folds(databases, labels, patients, seed=0):
    """folds.assign_folds for labels of the Challenge's classes, bool (n, 24)."""
    dx = [" ".join(CLASSES[k] for k in np.flatnonzero(row)) for row in labels]
    return folding.assign_folds(databases, dx, patients, seed=seed)


def fold_counts(labels, folds):
    return np.array([labels[folds == fold].sum(0) for fold in range(10)])


def test_every_record_has_a_fold():
    labels = realistic_labels(500)
    folds = assign_folds(["a"] * 500, labels, [""] * 500)
    assert set(folds) == set(folds[labels.any(1)]) == set(folds[~labels.any(1)]) == set(range(10))
    assert np.ptp(np.bincount(folds)) <= 1


def test_the_folds_of_records_with_challenge_labels_are_those_of_before():
    """Before, only they had one; published splits stay what they were."""
    for n, expected in FOLDS_OF_BEFORE.items():
        labels, patients = realistic_labels(n), patients_of(n)
        folds = assign_folds(["a", "b"] * (n // 2), labels, patients)
        assert (
            hashlib.sha256(folds[labels.any(1)].astype("<i8").tobytes()).hexdigest()[:16]
            == expected
        )


FOLDS_OF_BEFORE = {200: "516b4ef1e49f4107", 3000: "6d334cefd01d70da"}


MERGED, MI, RARE, SINUS = "59118001", "164865005", "164867002", "426783006"


def test_other_codes_are_spread_over_all_records_that_carry_them():
    """207 records with an unscored infarction, 60 of them with a scored diagnosis, too; of 17 it
    is the only code.  Own classes found 7 records with a fold.
    """
    dx = (
        [f"426783006 {MI}"] * 60
        + [f"{MI} 428750005"] * 130
        + [MI] * 17
        + ["426783006"] * 300
        + [""] * 45
    )
    dx += [f"{RARE} 428750005"] * 9
    rng = np.random.default_rng(0)
    dx = [dx[i] for i in rng.permutation(len(dx))]
    folds = folding.assign_folds(["a"] * len(dx), dx, [""] * len(dx))
    for wanted, slack in ((MI, 1), ("428750005", 1.1), ("426783006", 1)):
        found = np.bincount(folds[[wanted in text for text in dx]], minlength=10)
        assert np.abs(found - found.sum() / 10).max() <= slack, (wanted, found)
    assert np.ptp(np.bincount(folds)) <= 2
    assert set(folds[[not text for text in dx]]) == set(range(10))


def test_merged_codes_are_one_class():
    assert CODE_TO_CLASS[MERGED] == CODE_TO_CLASS["713427006"]
    folds = folding.assign_folds(["a"] * 20, [MERGED, "713427006"] * 10, [""] * 20)
    assert np.bincount(folds).tolist() == [2] * 10


def test_a_record_without_label_stays_with_its_patient():
    labels, patients = realistic_labels(1000), np.array(patients_of(1000))
    folds = assign_folds(["a"] * 1000, labels, patients.tolist())
    for patient in set(patients) - {""}:
        assert len(set(folds[patients == patient])) == 1


@pytest.mark.parametrize("n", [200, 1000, 5000])
def test_label_counts_are_near_the_ideal(n):
    """Within two records of a tenth, for every class and fold; a random deal is several times
    worse.
    """
    labels = realistic_labels(n)
    folds = assign_folds(["a"] * n, labels, [""] * n)
    ideal = labels.sum(0) / 10
    assert np.abs(fold_counts(labels, folds) - ideal).max() < 2
    sizes = np.bincount(folds[folds >= 0])
    assert sizes.max() - sizes.min() <= max(4, 0.02 * n)
    dealt = np.random.default_rng(0).permutation(np.arange(n) % 10)
    assert np.abs(fold_counts(labels, dealt) - ideal).max() > 4


def test_stratified_within_each_database_and_independent_of_the_others():
    labels = realistic_labels(900)
    databases = ["ptb", "georgia", "cpsc_2018"] * 300
    folds = assign_folds(databases, labels, [""] * 900)
    for name in set(databases):
        mine = np.array(databases) == name
        assert np.abs(fold_counts(labels[mine], folds[mine]) - labels[mine].sum(0) / 10).max() < 2.5
        alone = assign_folds([name] * 300, labels[mine], [""] * 300)
        np.testing.assert_array_equal(alone, folds[mine])


def test_deterministic_and_seeded():
    labels = realistic_labels(400)
    folds = [assign_folds(["a"] * 400, labels, [""] * 400, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(folds[0], folds[1])
    assert (folds[0] != folds[2]).any()


def patients_of(n, seed=0):
    """Ids with one to a dozen records each, a third unknown."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n), np.minimum(rng.geometric(0.4, n), 12))[:n]
    return [
        f"p{i}" if known else "" for i, known in zip(rng.permutation(ids), rng.random(n) > 1 / 3)
    ]


def test_patients_stay_together_and_labels_stay_spread():
    labels, patients = realistic_labels(3000), np.array(patients_of(3000))
    folds = assign_folds(["a"] * 3000, labels, patients.tolist())
    scored = labels.any(1)
    several = 0
    for patient in set(patients[scored]) - {""}:
        mine = folds[scored & (patients == patient)]
        assert len(set(mine)) == 1
        several += len(mine) > 1
    assert several > 200
    ideal = labels.sum(0) / 10
    assert np.abs(fold_counts(labels, folds) - ideal).max() < 4
    assert len(set(folds[scored & (patients == "")])) == 10  # unknown is not one patient


def test_the_same_id_in_two_databases_is_two_patients():
    labels = np.ones((40, 24), bool)
    folds = assign_folds(["a", "b"] * 20, labels, ["7"] * 40)
    assert len(set(folds[::2])) == len(set(folds[1::2])) == 1
    many = [len(set(assign_folds([f"a{k}", f"b{k}"] * 20, labels, ["7"] * 40))) for k in range(20)]
    assert max(many) == 2


@pytest.mark.parametrize("n", range(10))
def test_tiny_databases(n):
    labels = realistic_labels(n, seed=n)
    folds = assign_folds(["incart"] * n, labels, [""] * n)
    assert len(set(folds.tolist())) == n  # one record a fold, as far as they reach


def test_one_huge_patient():
    """Thirty records of one patient among forty: nothing to balance, but a valid answer."""
    labels = np.ones((40, 24), bool)
    folds = assign_folds(["a"] * 40, labels, ["p"] * 30 + [""] * 10)
    assert len(set(folds[:30])) == 1 and (folds >= 0).all() and folds[0] not in folds[30:]


def test_follows_the_paper_s_rule_on_a_small_case():
    """Rarest label first, to the fold that wants most of it: two records of the rare label meet
    in no fold.
    """
    labels = np.zeros((20, 2), bool)
    labels[:, 0] = True
    labels[[3, 11], 1] = True
    for seed in range(10):
        folds = stratify(labels, np.arange(20), 2, np.random.default_rng(seed))
        assert folds[3] != folds[11] and np.bincount(folds).tolist() == [10, 10]


def test_folds_are_spread_over_the_labels_of_the_task_where_they_are_given():
    """A rare word that no code tells of: dealt by codes alone, it is bunched."""
    rng = np.random.default_rng(3)
    words = rng.permutation([2] * 20 + [1] * 300 + [0] * 700 + [-1] * 30)
    dx = [SINUS if sinus else "" for sinus in rng.random(len(words)) < 0.5]
    databases, patients = ["a", "b"] * (len(words) // 2), patients_of(len(words))
    strata = label_strata(words, "multiclass")
    folds = folding.assign_folds(databases, dx, patients, strata=strata)
    for rows in (np.array(databases) == "a", np.array(databases) == "b"):
        ideal = strata[rows].sum(axis=0) / 10
        assert np.abs(fold_counts(strata[rows], folds[rows]) - ideal).max() < 3
    by_codes = folding.assign_folds(databases, dx, patients)
    assert np.ptp(fold_counts(strata, by_codes)[:, 2]) > np.ptp(fold_counts(strata, folds)[:, 2])
    sinus = np.array(dx) == SINUS
    assert np.abs(np.bincount(folds[sinus], minlength=10) - sinus.sum() / 10).max() < 25 and len(
        folds
    ) == len(words)
    for patient in set(patients) - {""}:
        for database in "ab":
            mine = folds[(np.array(patients) == patient) & (np.array(databases) == database)]
            assert len(set(mine.tolist())) <= 1


def test_folds_of_a_regression_have_the_same_ages():
    rng = np.random.default_rng(4)
    ages = rng.normal(60, 15, 1000)
    strata = label_strata(ages[:, None], "regression")
    folds = folding.assign_folds(["a"] * 1000, [""] * 1000, [""] * 1000, strata=strata)
    assert np.abs(fold_counts(strata, folds) - 20).max() <= 1
    assert np.ptp([ages[folds == fold].mean() for fold in range(10)]) < 4

import numpy as np
import pytest

from data_preparation.folds import assign_folds, stratify
from util.store import NO_FOLD


def realistic_labels(n, seed=0):
    """bool (n, 24): a few common and many rare classes, correlated, a tenth of the records without any."""
    rng = np.random.default_rng(seed)
    share = 0.5 / 1.3 ** np.arange(24)
    labels = rng.random((n, 24)) < share
    labels[:, 5] |= labels[:, 1] & (rng.random(n) < 0.5)
    labels[rng.random(n) < 0.1] = False
    return labels


def fold_counts(labels, folds):
    return np.array([labels[folds == fold].sum(0) for fold in range(10)])


def test_every_scored_record_has_one_fold_and_the_others_none():
    labels = realistic_labels(500)
    folds = assign_folds(["a"] * 500, labels, [""] * 500)
    np.testing.assert_array_equal(folds == NO_FOLD, ~labels.any(1))
    assert set(folds[labels.any(1)]) == set(range(10))


@pytest.mark.parametrize("n", [200, 1000, 5000])
def test_label_counts_are_near_the_ideal(n):
    """Within two records of a tenth, for every class and fold; a random deal is several times worse."""
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
    return [f"p{i}" if known else "" for i, known in zip(rng.permutation(ids), rng.random(n) > 1 / 3)]


def test_patients_stay_together_and_labels_stay_spread():
    labels, patients = realistic_labels(3000), np.array(patients_of(3000))
    folds = assign_folds(["a"] * 3000, labels, patients.tolist())
    scored = folds >= 0
    several = 0
    for patient in set(patients[scored]) - {""}:
        mine = folds[scored & (patients == patient)]
        assert len(set(mine)) == 1
        several += len(mine) > 1
    assert several > 200
    ideal = labels.sum(0) / 10
    assert np.abs(fold_counts(labels, folds) - ideal).max() < 4
    assert len(set(folds[scored & (patients == "")])) == 10        # unknown is not one patient


def test_the_same_id_in_two_databases_is_two_patients():
    labels = np.ones((40, 24), bool)
    folds = assign_folds(["a", "b"] * 20, labels, ["7"] * 40)
    assert len(set(folds[::2])) == len(set(folds[1::2])) == 1
    many = [len(set(assign_folds([f"a{k}", f"b{k}"] * 20, labels, ["7"] * 40))) for k in range(20)]
    assert max(many) == 2


@pytest.mark.parametrize("n", range(10))
def test_tiny_databases(n):
    labels = realistic_labels(1000, seed=n)
    labels = labels[labels.any(1)][:n]
    folds = assign_folds(["incart"] * n, labels, [""] * n)
    assert len(set(folds.tolist())) == n        # one record a fold, as far as they reach


def test_one_huge_patient():
    """Thirty records of one patient among forty: nothing to balance, but a valid answer."""
    labels = np.ones((40, 24), bool)
    folds = assign_folds(["a"] * 40, labels, ["p"] * 30 + [""] * 10)
    assert len(set(folds[:30])) == 1 and (folds >= 0).all() and folds[0] not in folds[30:]


def test_follows_the_paper_s_rule_on_a_small_case():
    """Rarest label first, to the fold that wants most of it: two records of the rare label meet in no fold."""
    labels = np.zeros((20, 2), bool)
    labels[:, 0] = True
    labels[[3, 11], 1] = True
    for seed in range(10):
        folds = stratify(labels, np.arange(20), 2, np.random.default_rng(seed))
        assert folds[3] != folds[11] and np.bincount(folds).tolist() == [10, 10]

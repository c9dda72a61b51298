"""Nearest neighbours against a loop over records."""

import numpy as np

from util.evaluation.neighbours import neighbours


def loop(train_x, train_y, test_x, k, temperature=0.07):
    """The definition, record by record."""
    varies = [c for c in range(train_x.shape[1]) if len(set(train_x[:, c])) > 1]
    mean, std = train_x[:, varies].mean(axis=0), train_x[:, varies].std(axis=0)
    a, b = ((x[:, varies] - mean) / std for x in (train_x, test_x))
    every = []
    for x in b:
        cosines = np.array([x @ y / np.sqrt((x @ x) * (y @ y)) for y in a])
        chosen = sorted(range(len(a)), key=lambda n: -cosines[n])[:k]
        row = []
        for c in range(train_y.shape[1]):
            known = [n for n in chosen if not np.isnan(train_y[n, c])]
            weights = [np.exp(cosines[n] / temperature) for n in known]
            of_known = sum(w * train_y[n, c] for w, n in zip(weights, known))
            row.append(of_known / sum(weights) if known else np.nanmean(train_y[:, c]))
        every.append(row)
    return np.array(every)


def made(seed=0):
    rng = np.random.default_rng(seed)
    train_x, test_x = rng.normal(3, 2, (40, 6)), rng.normal(3, 2, (15, 6))
    train_y = (rng.random((40, 3)) < 0.3).astype(float)
    train_y[rng.random((40, 3)) < 0.5] = np.nan
    return train_x, train_y, test_x


def test_neighbours_equal_the_loop():
    for seed in range(3):
        train_x, train_y, test_x = made(seed)
        for k in (1, 5, 40):
            np.testing.assert_allclose(
                neighbours(train_x, train_y, test_x, k),
                loop(train_x, train_y, test_x, k),
                atol=1e-7,
            )


def test_a_feature_that_does_not_vary_in_training_takes_no_part():
    """The defect: a feature that is 0 for all training records and small for a test record was
    divided by 1e-9, so that all neighbours of this record counted alike; and what rounding alone
    makes vary counted as much as any feature.
    """
    train_x, train_y, test_x = made()
    wanted = loop(train_x, train_y, test_x, 10)
    rng = np.random.default_rng(1)
    for train_c, test_c in (
        (np.zeros(40), np.full(15, 1e-3)),
        (1 + 1e-9 * rng.normal(size=40), 1 + 1e-9 * rng.normal(size=15)),
    ):
        with_it = [np.column_stack(pair) for pair in ((train_x, train_c), (test_x, test_c))]
        got = neighbours(with_it[0], train_y, with_it[1], 10)
        np.testing.assert_allclose(got, wanted, atol=1e-7)

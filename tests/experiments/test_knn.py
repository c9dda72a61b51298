"""Nearest neighbours of an encoder's features."""

import numpy as np
import pandas as pd
import pytest

from experiments import knn
from tests.support.small_store import run, store
from util.errors import ConfigError
from util.evaluation.neighbours import neighbours


def by_definition(train_x, train_y, test_x, k, temperature):
    mean, std = train_x.mean(axis=0), train_x.std(axis=0)
    unit = [
        ((x - mean) / std) / np.linalg.norm((x - mean) / std, axis=1)[:, None]
        for x in (train_x, test_x)
    ]
    found = np.zeros((len(test_x), train_y.shape[1]))
    for i, one in enumerate(unit[1]):
        cosine = [float(other @ one) for other in unit[0]]
        asked = sorted(range(len(cosine)), key=lambda j: -cosine[j])[:k]
        for c in range(train_y.shape[1]):
            known = [j for j in asked if not np.isnan(train_y[j, c])]
            weights = [np.exp(cosine[j] / temperature) for j in known]
            found[i, c] = (
                sum(w * train_y[j, c] for w, j in zip(weights, known)) / sum(weights)
                if known
                else np.nanmean(train_y[:, c])
            )
    return found


def test_as_the_definition_reads_with_unknown_labels():
    numbers = np.random.default_rng(0)
    train_x, test_x = numbers.normal(size=(60, 5)), numbers.normal(size=(9, 5))
    train_y = (numbers.random((60, 4)) < 0.4).astype(float)
    train_y[numbers.random((60, 4)) < 0.6] = np.nan
    got = neighbours(train_x, train_y, test_x, k=3, temperature=0.1)
    np.testing.assert_allclose(got, by_definition(train_x, train_y, test_x, 3, 0.1), rtol=1e-6)


def test_a_store_s_records_ask_those_of_the_training_part(tmp_path):
    flags = (
        "--config_path",
        "configs/downstream/signal.yaml",
        "--overlay",
        "scratch",
        "--set",
        f"dataset.store={store()}",
        "--set",
        "model.channels=4",
        "--set",
        "dataset.fold=[3, 9]",
        "--output_dir",
        tmp_path,
        "--exp_name",
        "run",
        "--set",
        "device=cpu",
        "--set",
        "dataloader.num_workers=0",
    )
    run(knn.main, *flags, "--k", 3)
    for fold in (3, 9):
        scores = pd.read_csv(tmp_path / "run" / f"fold{fold}" / "test_metrics.csv")
        predictions = pd.read_csv(tmp_path / "run" / f"fold{fold}" / "test_predictions.csv")
        assert scores["records"].item() == len(predictions) > 0
        assert predictions.filter(regex="^probability_").stack().between(0, 1).all()
    with pytest.raises(
        ConfigError, match="nothing is trained: --set train.epochs=3, --resume; leave that out"
    ):
        run(
            knn.main,
            *flags,
            "--set",
            "train.epochs=3",
            "--set",
            "train.amp=none",
            "--resume",
            "auto",
        )
    with pytest.raises(ConfigError, match="--k 10000: fold 3 has [0-9]+ training records"):
        run(knn.main, *flags, "--k", 10000)

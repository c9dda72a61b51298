"""Nearest neighbours of an encoder's features."""

import numpy as np
import pandas as pd
import pytest

import main_finetune
from experiments import knn
from tests.support.small_store import run, store
from util.errors import ConfigError
from util.evaluation import neighbours as evaluation_neighbours
from util.evaluation.neighbours import neighbours
from util.evaluation.probes import features


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


def flags(folder, *more):
    given = [f"dataset.store={store()}", "model.channels=4", "device=cpu", *more]
    return (
        *("--config_path", "configs/downstream/signal.yaml", "--overlay", "scratch"),
        *("--output_dir", folder, "--exp_name", "run"),
        *(word for text in (*given, "dataloader.num_workers=0") for word in ("--set", text)),
    )


def test_a_store_s_records_ask_those_of_the_training_part(tmp_path):
    given = flags(tmp_path, "dataset.fold=[3, 9]")
    run(knn.main, *given, "--k", 3)
    for fold in (3, 9):
        scores = pd.read_csv(tmp_path / "run" / f"fold{fold}" / "test_metrics.csv")
        predictions = pd.read_csv(tmp_path / "run" / f"fold{fold}" / "test_predictions.csv")
        assert scores["records"].item() == len(predictions) > 0
        assert predictions.filter(regex="^probability_").stack().between(0, 1).all()
    summary = pd.read_csv(tmp_path / "run" / "summary.csv", index_col="fold")
    assert list(summary.index) == ["3", "9", "mean", "std"]
    assert summary["AUROC"]["9"] == pytest.approx(scores["AUROC"].item(), abs=1e-4)
    with pytest.raises(
        ConfigError, match="nothing is trained: --set train.epochs=3, --resume; leave that out"
    ):
        more = ("--set", "train.epochs=3", "--set", "train.amp=none", "--resume", "auto")
        run(knn.main, *given, *more)
    with pytest.raises(ConfigError, match="--k 10000: fold 3 has [0-9]+ training records"):
        run(knn.main, *given, "--k", 10000, "--overwrite")


def test_neither_a_training_s_scores_nor_those_of_other_neighbours_are_replaced(tmp_path):
    """The defect: kNN's test_metrics.csv took the place of the fine-tuning's, without a word."""
    given = flags(tmp_path, "dataset.fold=3", "train.epochs=1", "dataloader.batch_size=8")
    asked = flags(tmp_path, "dataset.fold=3", "dataloader.batch_size=8")
    run(main_finetune.main, *given)
    place = tmp_path / "run" / "test_metrics.csv"
    before = place.read_bytes()
    with pytest.raises(ConfigError, match="holds the results of a fine-tuning; .*--overwrite"):
        run(knn.main, *asked)
    assert place.read_bytes() == before
    run(knn.main, *asked, "--overwrite")
    assert place.read_bytes() != before
    run(knn.main, *asked)  # the same again
    with pytest.raises(ConfigError, match="a score by 20 nearest neighbours .experiments/knn.py"):
        run(knn.main, *asked, "--k", 3)
    with pytest.raises(ConfigError, match="a score by 20 nearest neighbours"):
        run(main_finetune.main, *given)
    with pytest.raises(ConfigError, match="another job, which differs in model.channels"):
        run(knn.main, *asked, "--set", "model.channels=2")
    run(main_finetune.main, *given, "--overwrite")
    run(main_finetune.main, *given)  # it is a fine-tuning again


def test_folds_of_earlier_neighbours_count_in_the_summary_unless_they_were_others(tmp_path):
    run(knn.main, *flags(tmp_path, "dataset.fold=[3, 9]"), "--k", 3)
    run(knn.main, *flags(tmp_path, "dataset.fold=[1, 2]"), "--k", 3)
    summary = pd.read_csv(tmp_path / "run" / "summary.csv", index_col="fold")
    assert list(summary.index) == ["1", "2", "3", "9", "mean", "std"]
    assert summary["AUROC"]["mean"] == pytest.approx(summary["AUROC"][:4].mean(), abs=1e-4)
    with pytest.raises(
        ConfigError, match="fold1 is of another job, .* what was scored .by 3 nearest"
    ):
        run(knn.main, *flags(tmp_path, "dataset.fold=[3, 9]"), "--k", 4)


def test_an_untrained_network_standardises_its_input_as_a_probe_does(tmp_path, monkeypatch):
    """The defect: without weights the statistics of the input were 0 and 1."""
    fitted = []

    def watched(encoder, *args):
        fitted.extend(part.fitted for part, _ in encoder.standardizers())
        return features(encoder, *args)

    monkeypatch.setattr(evaluation_neighbours, "features", watched)
    run(knn.main, *flags(tmp_path, "dataset.fold=3"), "--k", 3)
    assert fitted and all(map(bool, fitted))

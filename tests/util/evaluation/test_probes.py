"""The linear probe: features averaged over a record's crops, and a ridge regression in closed
form.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import main_pretrain
from tests.support import small_store
from tests.support.tiny_jobs import ST_MEM, with_store
from util.config.keys import PretrainConfig
from util.config.load import ROOT, load_config
from util.data.labels import read_labels
from util.data.store import RecordStore
from util.evaluation import probes
from util.evaluation.probes import features, linear_probe
from util.scoring.scores import auroc, macro


class Means(nn.Module):
    """Features: mean and largest value of each crop's first lead; dropout shows the mode."""

    width = 2

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward_features(self, x):
        return self.drop(torch.stack([x[:, 0].mean(dim=1), x[:, 0].amax(dim=1)], dim=1))


def batch(counts, records):
    return {
        "counts": torch.tensor(counts, dtype=torch.int16)[:, :, None],
        "scale": torch.full((len(records),), 0.5),
        "key": torch.tensor(records),
        "record": torch.tensor(records),
    }


def test_features_are_means_over_the_crops_of_a_record_in_the_order_of_the_rows():
    loader = [batch([[0, 4], [2, 2]], [7, 3]), batch([[8, 0]], [7])]
    encoder = Means().train()
    got = features(encoder, loader, nn.Identity(), np.array([3, 7]), torch.device("cpu"))
    np.testing.assert_allclose(got, [[1, 1], [(1 + 2) / 2, (2 + 4) / 2]])
    assert (
        got.dtype == np.float64 and encoder.training
    )  # as it was, though measured without dropout


def test_the_probe_is_the_ridge_regression_it_says():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((60, 5)) * [1, 10, 0.1, 1, 1] + 3, random.random((60, 3)) < 0.4
    other, truth = (
        random.standard_normal((40, 5)) * [1, 10, 0.1, 1, 1] + 3,
        random.random((40, 3)) < 0.4,
    )
    a, b = ((part - x.mean(axis=0)) / x.std(axis=0) for part in (x, other))
    outputs = np.empty((40, 3))
    for c in range(3):  # least squares with ridge rows appended
        design = np.vstack([a, np.sqrt(0.01 * 60) * np.eye(5)])
        target = np.concatenate([y[:, c] - y[:, c].mean(), np.zeros(5)])
        outputs[:, c] = b @ np.linalg.lstsq(design, target, rcond=None)[0]
    assert linear_probe(x, y.astype(float), other, truth.astype(float)) == pytest.approx(
        macro(auroc(truth, outputs))
    )


def test_an_unknown_label_teaches_nothing_and_is_not_scored():
    """Each class on its own from the records whose label is known, with an intercept of its own."""
    random = np.random.default_rng(4)
    x, y = random.standard_normal((60, 5)), (random.random((60, 3)) < 0.4).astype(float)
    other, truth = random.standard_normal((40, 5)), (random.random((40, 3)) < 0.4).astype(float)
    y[:20, 0], y[30:, 1], truth[5:15, 1] = np.nan, np.nan, np.nan
    a, b = (x - x.mean(axis=0)) / x.std(axis=0), (other - x.mean(axis=0)) / x.std(axis=0)
    areas = []
    for c in range(3):
        mine, scored = ~np.isnan(y[:, c]), ~np.isnan(truth[:, c])
        design = np.vstack([a[mine] - a[mine].mean(axis=0), np.sqrt(0.01 * mine.sum()) * np.eye(5)])
        target = np.concatenate([y[mine, c] - y[mine, c].mean(), np.zeros(5)])
        outputs = b[scored] @ np.linalg.lstsq(design, target, rcond=None)[0]
        areas.append(auroc(truth[scored, c : c + 1] > 0, outputs[:, None]))
    assert linear_probe(x, y, other, truth) == pytest.approx(np.mean(areas))


def test_numbers_are_probed_by_r2():
    random = np.random.default_rng(5)
    x, other, weights = (
        random.standard_normal((200, 5)),
        random.standard_normal((100, 5)),
        random.standard_normal((5, 2)),
    )
    y, truth = x @ weights + 60, other @ weights + 60
    assert linear_probe(x, y, other, truth, score="R2") == pytest.approx(1, abs=1e-3)
    assert linear_probe(x, y, other, truth[::-1], score="R2") < 0.2


def test_numbers_that_are_known_of_some_records_alone_keep_their_line():
    """Known where a feature is high alone, as in one of two hospitals: the line through these
    holds for all.
    """
    random = np.random.default_rng(6)
    x, other = random.standard_normal((400, 3)), random.standard_normal((100, 3))
    y, truth = (part @ [[2.0], [1.0], [0.5]] + 60 for part in (x, other))
    y[x[:, 0] < 0.5] = np.nan
    assert linear_probe(x, y, other, truth, ridge=1e-6, score="R2") > 0.999


def test_separable_classes_reach_one_and_noise_one_half():
    random = np.random.default_rng(1)
    y, truth = np.eye(4)[random.integers(0, 4, 200)], np.eye(4)[random.integers(0, 4, 100)]
    assert linear_probe(y + 0, y, truth + 0, truth) == 1
    noise = linear_probe(
        random.standard_normal((2000, 4)),
        np.eye(4)[random.integers(0, 4, 2000)],
        random.standard_normal((2000, 4)),
        np.eye(4)[random.integers(0, 4, 2000)],
    )
    assert noise == pytest.approx(0.5, abs=0.05)


def test_a_constant_feature_does_no_harm():
    random = np.random.default_rng(2)
    y = np.eye(2)[random.integers(0, 2, 100)]
    x = np.concatenate([y, np.full((100, 1), 7.0)], axis=1)
    assert linear_probe(x, y, x, y) == 1


def test_the_probe_trains_on_records_from_the_whole_store(monkeypatch):
    """A store is ordered by database: its first rows are all of one, and a perfect encoder scored
    .65 on them.
    """
    monkeypatch.setattr(probes, "MAX_TRAINING", 12)
    config = load_config(
        [ROOT / "configs/pretrain/simclr_signal.yaml"],
        [f"dataset.store={small_store.store()}"],
        program=PretrainConfig,
    )
    store = RecordStore(small_store.store() / "fs100")
    rows = probes.Probe(
        store, config, read_labels(store, config.dataset), torch.device("cpu")
    ).parts[0][0]
    assert len(rows) == 12 == len(set(rows)) and rows[0] < 8 and rows[-1] > len(store) - 8
    assert np.diff(rows).max() < 0.3 * len(store)


@pytest.mark.parametrize("excluded", [[3], []])
def test_figures_draw_a_record_that_is_not_trained_on(monkeypatch, tmp_path, excluded):
    drawn, titles, plot, move = [], [], main_pretrain.plot_reconstruction, main_pretrain.to_device
    monkeypatch.setattr(
        main_pretrain,
        "to_device",
        lambda batch, device: drawn.extend(batch["record"].tolist()) or move(batch, device),
    )
    monkeypatch.setattr(
        main_pretrain,
        "plot_reconstruction",
        lambda *args, title, **more: titles.append(title) or plot(*args, title=title, **more),
    )
    config = with_store(ST_MEM, epochs=1, steps_per_epoch=1)
    config = {
        **config,
        "dataset": {**config["dataset"], "exclude_folds": excluded},
        "output_dir": str(tmp_path),
        "exp_name": "run",
    }
    main_pretrain.pretrain(load_config([config], program=PretrainConfig))
    folds = RecordStore(small_store.store() / "fs100").records["fold"]
    assert list(folds[drawn]) == excluded or not excluded
    assert [title is None for title in titles] == [bool(excluded)] and len(drawn) == 1


def test_a_probe_does_not_say_that_records_it_cannot_use_take_no_part(capsys):
    """They are trained on all the same."""
    config = load_config(
        [ROOT / "configs/pretrain/simclr_signal.yaml"],
        [f"dataset.store={small_store.store()}"],
        program=PretrainConfig,
    )
    store = RecordStore(small_store.store() / "fs100")
    labels = read_labels(store, config.dataset)
    known = labels.known & (np.arange(len(store)) != 5)
    probes.Probe(store, config, replace(labels, known=known), torch.device("cpu"))
    assert "take no part" not in capsys.readouterr().out

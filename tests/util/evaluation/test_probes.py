"""The linear probe: features averaged over a record's crops, and a ridge regression in closed
form.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import main_pretrain
from tests.support import small_store
from tests.support.tiny_jobs import ST_MEM, with_store
from util.config.keys import PretrainConfig
from util.config.load import ROOT, check, load_config
from util.contract.registry import DataFacts, build
from util.data.dataset import CropDataset
from util.data.store import RecordStore
from util.evaluation import probes
from util.evaluation.inference import record_loader
from util.evaluation.probes import features, layered_features, linear_probe, rankme, spread
from util.labels.tables import read_labels
from util.leads import LEADS
from util.scoring.scores import auroc, macro
from util.signals.crops import Cropping


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


# ============ rank, spread, layers ============
def test_rank_counts_the_directions_that_are_used():
    random = np.random.default_rng(3)
    assert rankme(np.linalg.qr(random.standard_normal((50, 8)))[0]) == pytest.approx(8)
    one = np.outer(random.standard_normal(50), random.standard_normal(8))
    assert rankme(one) == pytest.approx(1, abs=1e-6) and rankme(np.zeros((5, 3))) == 1
    assert 1.5 < rankme(one + 0.05 * random.standard_normal((50, 8))) < 8


def test_spread_is_near_1_on_the_sphere_and_0_after_collapse():
    random = np.random.default_rng(4)
    assert spread(random.standard_normal((2000, 64))) == pytest.approx(1, abs=0.02)
    assert spread(np.ones((20, 8)) * random.random((20, 1))) == pytest.approx(0, abs=1e-7)


LAYERS = {
    "vit_tiny": ({}, ["block0", "block1", "block2", "block3"]),
    "st_mem_vit_tiny": ({}, ["block0", "block1", "block2", "block3"]),
    "xresnet1d18": ({"channels": 4}, ["stage0", "stage1", "stage2", "stage3"]),
    "spectrogram_se_resnet34": ({"channels": 4}, ["stage0", "stage1", "stage2", "stage3"]),
    "cpc_lstm": ({"channels": 6}, ["convolutions", "lstm"]),
    "cpc_s4": ({"channels": 6, "layers": 2}, ["layer0", "layer1"]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_of_an_encoder_are_means_over_places(name):
    """In one pass; the encoder is as it was before, and its last layer is near its features."""
    options, names = LAYERS[name]
    encoder = build(name, DataFacts(LEADS, 250, None, 300), **options).train()
    dataset = CropDataset(RecordStore(small_store.store() / "fs250"), LEADS, 300)
    rows = np.arange(9)
    loader = record_loader(dataset, rows, Cropping("center", 300), 4)
    crop, cpu = torch.zeros(1, 12, 300), torch.device("cpu")
    found = layered_features(encoder, loader, nn.Identity(), rows, crop, cpu)
    assert list(found) == ["", *names] and encoder.training
    assert all(len(x) == 9 and np.isfinite(x).all() for x in found.values())
    np.testing.assert_array_equal(found[""], features(encoder, loader, nn.Identity(), rows, cpu))
    assert not any(module._forward_hooks for module in encoder.modules())
    if name == "cpc_s4":
        np.testing.assert_allclose(found["layer1"], found[""], rtol=1e-5, atol=1e-6)
    if name == "cpc_lstm":
        np.testing.assert_allclose(found["lstm"], found[""][:, :6], rtol=1e-5, atol=1e-6)


def test_a_pre_training_logs_rank_spread_and_layers(tmp_path):
    config = with_store(
        {**ST_MEM, "dataset": {**ST_MEM["dataset"], "max_records": None}}, probe_every=1
    )
    config = {**config, "output_dir": str(tmp_path), "exp_name": "run", "device": "cpu"}
    main_pretrain.pretrain(check(config, PretrainConfig))
    lines = [json.loads(text) for text in (tmp_path / "run" / "log.txt").read_text().splitlines()]
    wanted = {
        "probe_auroc",
        "probe_auroc_block0",
        "probe_auroc_block1",
        "probe_rankme",
        "probe_spread",
    }
    assert all(wanted <= line.keys() for line in lines) and len(lines) == 2
    assert 1 <= lines[1]["probe_rankme"] <= 64 and lines[1]["probe_spread"] >= 0
    assert "; RankMe " in (tmp_path / "run" / "console.txt").read_text()

"""What is read linearly from features of simulated ECGs."""

import numpy as np
import pandas as pd
import pytest

from data_preparation.simulator.findings import Findings
from experiments import report_card
from experiments.evaluation.card import UNITS, Simulated, measures_of, read_linearly, simulated
from main_pretrain import pretrain
from tests.support.small_store import run, store
from util.config.keys import PretrainConfig
from util.config.load import check
from util.errors import ConfigError


def test_the_measures_are_those_of_the_simulated_heart():
    heart = Findings(rate=60, pr=0.16, qrs=0.09, qtc=0.41, axis=30)
    assert measures_of(heart) == pytest.approx([60, 160, 90, 410, 30])
    fast = measures_of(Findings(rate=120, qtc=0.40, qrs=0.12))
    assert fast[3] == pytest.approx(1000 * (0.40 * 0.5**0.5 + 0.485 * 0.02))
    assert np.isnan(measures_of(Findings(rhythm="fibrillation"))[1])


def test_a_recording_depends_on_seed_and_number_alone():
    one, more, other = simulated(2, 5), simulated(3, 5), simulated(2, 6)
    assert np.array_equal(one.signals, more.signals[:2]) and one.signals.shape == (2, 12, 5000)
    assert np.array_equal(one.truth, more.truth[:2], equal_nan=True)
    assert not np.array_equal(one.signals, other.signals)


def test_what_is_in_the_features_is_read_and_noise_is_not():
    random = np.random.default_rng(0)
    truth = random.normal([70, 160, 100, 400, 30], [10, 20, 15, 30, 40], (400, 5))
    truth[:60, 1] = np.nan
    features = random.normal(size=(400, 12))
    features[:, :4] = 3 * np.nan_to_num(truth[:, :4], nan=160) - 7
    table, read = read_linearly(features, Simulated(np.empty((400, 0)), truth))
    values = table.set_index("measure")
    assert (values["R2"][["rate", "PR", "QRS", "QT"]] > 0.98).all()
    assert values["R2"]["axis"] < 0.1 and values["low"]["axis"] < 0.1
    assert read.shape == (100, 5) and list(values["unit"]) == list(UNITS.values())
    assert values["MAE"]["axis"] == pytest.approx(40 * (2 / np.pi) ** 0.5, rel=0.2)


def test_the_command_leaves_a_table_and_a_figure(tmp_path, capsys):
    config = {
        "model_name": "cpc",
        "model": {"encoder": {"name": "cpc_lstm", "channels": 4}, "ahead": 2, "negatives": 4},
        "output_dir": str(tmp_path),
        "exp_name": "cpc",
        "device": "cpu",
        "dataset": {"store": str(store()), "fs": 100, "crop": 250},
        "dataloader": {"batch_size": 8, "num_workers": 0},
        "train": {"epochs": 1, "steps_per_epoch": 1, "lr": 1e-3},
    }
    pretrain(check(config, PretrainConfig))
    weights = ("--weights", tmp_path / "cpc" / "encoder.pth", "--gpu", "cpu")
    run(report_card.main, *weights, "--records", 100, "--output_dir", tmp_path / "card")
    table = pd.read_csv(tmp_path / "card" / "card.csv")
    assert list(table["encoder"].unique()) == ["cpc", "random"] and len(table) == 10
    assert (table["low"] <= table["R2"]).all() and (table["records"] <= 25).all()
    assert (tmp_path / "card" / "card.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="at least 100"):
        run(report_card.main, *weights, "--records", 99)

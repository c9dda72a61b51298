"""Settings under which nothing would be learned, or something else than was asked for: refused, or
said.
"""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from main_finetune import finetune
from main_pretrain import pretrain
from tests.support.configs import changed
from tests.support.tiny_jobs import CNN, DINO, ST_MEM, with_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check
from util.errors import ConfigError
from util.evaluation.evaluator import Evaluator
from util.evaluation.report import _check_chosen
from util.jobs.job import LabelledJob
from util.training.log.meters import Meters
from util.training.optimizer import Schedule


def supervised(folder, **sections):
    config = {**with_store(CNN, epochs=1, steps_per_epoch=1, warmup_epochs=0)}
    return changed(
        check({**config, "output_dir": str(folder), "exp_name": "run"}, FinetuneConfig), **sections
    )


# ============ a metric that is never defined ============
@pytest.fixture
def one_sided(monkeypatch):
    """A function that makes all labels of the selection records this value."""

    def make(value):
        fold_of = LabelledJob.fold

        def fold(self, number):
            found = fold_of(self, number)
            labels = found.labels.copy()
            labels[found.parts["valid"]] = value
            return replace(found, labels=labels)

        monkeypatch.setattr(LabelledJob, "fold", fold)

    return make


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("mode", ["scratch", "probe"])
def test_no_weights_are_chosen_by_a_metric_that_is_not_defined(tmp_path, one_sided, mode, value):
    """The defect: AUROC was NaN in every epoch, and the first epoch's weights were tested."""
    one_sided(value)
    config = supervised(tmp_path, mode=mode, test={"target_metric": "AUROC"})
    with pytest.raises(
        ConfigError, match="AUROC is not defined on the .* selection records .*choose loss"
    ):
        finetune(config)
    assert not (tmp_path / "run" / "test_metrics.csv").exists()


def test_it_may_still_be_measured(tmp_path, one_sided):
    one_sided(0)
    (result,) = finetune(supervised(tmp_path))  # selects by the loss
    assert math.isnan(result.selection["AUROC"]) and not math.isnan(result.scores["AUROC"])


def test_nothing_known_leaves_no_metric(tmp_path, one_sided):
    one_sided(math.nan)
    job = LabelledJob(supervised(tmp_path))
    with pytest.raises(ConfigError, match="choose another fold"):
        Evaluator(job.fold(0), torch.device("cpu")).check_target()


def test_a_metric_that_was_nan_for_other_reasons_is_found_before_the_test():
    with pytest.raises(ConfigError, match="AUROC was NaN .* in every epoch.*choose loss, AUPRC"):
        _check_chosen({"loss": 1.0, "AUROC": math.nan, "AUPRC": 0.5}, "AUROC")
    _check_chosen({"loss": math.nan, "AUROC": 0.5}, "AUROC")


# ============ skipped steps ============
def test_an_epoch_of_skipped_steps_has_no_mean(tmp_path, monkeypatch):
    """The defect: train_loss 0.0."""
    monkeypatch.setattr(Meters, "skips", lambda self, values: True)
    take = Meters.add

    def spoilt(self, epoch, step, values, records):
        take(self, epoch, step, values * math.nan, records)

    monkeypatch.setattr(Meters, "add", spoilt)
    config = {**with_store(ST_MEM, epochs=1, skip_nonfinite=100)}
    pretrain(check({**config, "output_dir": str(tmp_path), "exp_name": "run"}, PretrainConfig))
    assert math.isnan(json.loads((tmp_path / "run" / "log.txt").read_text())["train_loss"])


def test_means_of_no_step():
    meters = Meters(pd.Series(["a"]), tolerated=5)
    meters.names, meters.sums = ["loss"], [0, 0.0]
    assert math.isnan(meters.close_epoch()["loss"])
    meters.sums = [2, 3.0]
    assert meters.close_epoch() == {"loss": 1.5}


# ============ one record ============
SIMCLR = {**DINO, "model_name": "simclr", "model": {"encoder": DINO["model"]["encoder"]}}


def alone(folder, model, batch, **keys):
    config = with_store(model, epochs=1, steps_per_epoch=1, optimizer="adamw", optimizer_kwargs={})
    config = {**config, "output_dir": str(folder), "exp_name": "run"}
    config["dataloader"] = {"batch_size": batch, "num_workers": 0}
    return changed(check(config, PretrainConfig), **keys)


def test_simclr_needs_another_record(tmp_path):
    """The defect: a loss of 0 whatever the network does."""
    with pytest.raises(ConfigError, match="simclr compares .*raise dataloader.batch_size"):
        pretrain(alone(tmp_path, SIMCLR, 1))
    with pytest.raises(ConfigError, match="simclr compares"):
        pretrain(alone(tmp_path, SIMCLR, 1, train={"accum_iter": 4}))
    pretrain(alone(tmp_path, SIMCLR, 2))


@pytest.mark.parametrize("accumulate, batch", [(1, 48), (5, 9)])
def test_a_batch_larger_than_the_training_part_takes_all(tmp_path, accumulate, batch):
    pretrain(alone(tmp_path, SIMCLR, 64, train={"accum_iter": accumulate}))
    text = (tmp_path / "run" / "console.txt").read_text()
    assert f"batch_size 64 is lowered to {batch}, as there are only 48 training" in text
    assert "48 training records at 100 Hz, 1 steps an epoch" in text


def test_more_passes_than_training_records(tmp_path):
    with pytest.raises(ConfigError, match="48 training records are fewer than one step's batch"):
        pretrain(alone(tmp_path, SIMCLR, 64, train={"accum_iter": 49}))


# ============ rates ============
def schedule(**change):
    facts = {"lr": 1e-3, "min_lr": 0.0, "warmup_epochs": 1, "epochs": 4, "by_epoch": False}
    return Schedule(**{**facts, "weight_decay": 0.0, "weight_decay_end": None, **change})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr": 0.0}, "the peak learning rate is 0"),
        ({"warmup_epochs": 40}, "ends at 0.0001 and never reaches its peak"),
        ({"warmup_epochs": 4}, "never reaches its peak"),
        ({"warmup_epochs": 4.5, "by_epoch": True}, None),
        ({"warmup_epochs": 5, "by_epoch": True}, "never reaches its peak"),
        ({"min_lr": 2e-3}, "train.min_lr: 0.002 is above the peak"),
        ({"lr": 0.0, "min_lr": 1e-3}, "train.min_lr: 0.001 is above the peak"),
        ({}, None),
        ({"warmup_epochs": 4, "by_epoch": True}, None),
        ({"warmup_epochs": 0}, None),
    ],
)
def test_rates_that_surprise_are_said(sentences, change, words):
    schedule(**change).note_oddities()
    said = sentences()
    assert (words is None) == (not said) and (not said or words in said[0]), said


def test_the_run_says_them(tmp_path, sentences):
    finetune(supervised(tmp_path, train={"warmup_epochs": 3, "freeze_epochs": 1}))
    text = (tmp_path / "run" / "console.txt").read_text()
    assert "never reaches its peak" in text and "only the heads are trained" in text


# ============ numbers ============
@pytest.mark.parametrize(
    "key, value, words",
    [
        ("max_norm", 0, "train.max_norm must be more than 0, not 0"),
        ("max_norm", -1.0, "train.max_norm must be more than 0"),
        ("max_norm", math.nan, "train.max_norm must be a number or null, not nan"),
        ("lr", -1e-3, "train.lr must be 0 or more"),
        ("lr", math.inf, "train.lr must be a number"),
        ("epochs", 0, "train.epochs must be 1 or more"),
        ("warmup_epochs", -1, "train.warmup_epochs must be 0 or more"),
        ("weight_decay", math.nan, "train.weight_decay must be a number"),
        ("accum_iter", 0, "train.accum_iter must be 1 or more"),
    ],
)
def test_numbers_that_train_nothing(key, value, words):
    """The defect: max_norm 0, which elsewhere is no clipping, froze the network."""
    with pytest.raises(ConfigError, match=words):
        check(with_store(CNN, **{key: value}), FinetuneConfig)


def test_a_first_epoch_after_the_last(tmp_path):
    """The defect: encoder.pth of random weights."""
    with pytest.raises(ConfigError, match="start_epoch: 2 leaves nothing to train"):
        check({**with_store(ST_MEM, epochs=2), "start_epoch": 2}, PretrainConfig)
    check({**with_store(ST_MEM, epochs=2), "start_epoch": 1}, PretrainConfig)

"""The engine's arithmetic: accumulation, and which weights are the best."""
import itertools

import numpy as np
import pytest
import torch
from tiny_jobs import CNN, LOADER, ST_MEM, with_store
from torch import nn

import main_finetune
from main_pretrain import pretrain
from models.registry import register
from util import checkpoint
from util.config import check
from util.dataset import TrainingBatches


class Square(nn.Module):
    """The plainest method: a mean over the batch, nothing random, no running statistics."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(12, 3)
        self.encoder.forward_features = self.encoder.forward

    def forward(self, batch):
        return {"loss": self.encoder(batch["signal"].std(2)).square().mean()}

    def after_step(self, progress):
        """The contract's."""


@register
def square():
    """For tests."""
    return Square()


def trained(folder, config, **train):
    config = with_store(config, **train)
    pretrain(check({**config, "output_dir": str(folder), "exp_name": "run", "device": "cpu"}))
    return checkpoint.load(folder / "run" / "encoder.pth")["model"]


@pytest.fixture(autouse=True)
def checks_no_input(monkeypatch):
    monkeypatch.setattr("util.setup.check_input", lambda *arguments: None)  # it takes no crops


def test_two_micro_batches_of_four_equal_a_batch_of_eight(tmp_path):
    """By plain gradient descent: AdamW would hide a loss that is not divided."""
    config = {**ST_MEM, "model_name": "square"}
    sgd = {"optimizer": "sgd", "lr": 0.05, "warmup_epochs": 0}
    whole = trained(tmp_path / "8", config, **sgd)
    halves = trained(tmp_path / "4", {**config, "dataloader": {**LOADER, "batch_size": 4}}, accum_iter=2, **sgd)
    torch.manual_seed(0)
    assert (whole["weight"] - Square().encoder.weight).abs().max() > 1e-3
    for name in whole:
        assert torch.allclose(whole[name], halves[name], rtol=1e-5, atol=1e-7), name


def test_the_weights_of_the_lowest_loss_are_kept(tmp_path, monkeypatch):
    """Of losses 1.0, 0.5 and 0.8 those of the second epoch, be they tested, kept or handed on as an encoder."""
    config = with_store({**CNN, "train": {**CNN["train"], "epochs": 3}})
    losses = itertools.cycle([1.0, 0.5, 0.8])
    evaluate, kept = main_finetune.Evaluator.__call__, []

    def evaluated(self, classifier, part, training):
        kept.append({name: value.clone() for name, value in classifier.state_dict().items()})
        return {**evaluate(self, classifier, part, training), "loss": next(losses)}
    monkeypatch.setattr(main_finetune.Evaluator, "__call__", evaluated)
    main_finetune.finetune(check({**config, "output_dir": str(tmp_path), "exp_name": "run", "device": "cpu"}))
    best = checkpoint.load(tmp_path / "run" / "best-loss.pth")
    encoder = checkpoint.load(tmp_path / "run" / "encoder.pth")
    assert best["epoch"] == encoder["epoch"] == 1 and len(kept) == 3
    name = "stem.0.0.weight"
    assert torch.equal(best["model"][name], kept[1][name]) and not torch.equal(kept[1][name], kept[2][name])
    assert torch.equal(encoder["model"][name], kept[1][name])


@pytest.mark.parametrize("before, now", [((8, 1), (4, 5)), ((4, 2), (8, 3)), ((8, 3), (8, 2))])
def test_another_number_of_processes_sees_every_record_of_the_epoch_once(before, now):
    """(batch_size, processes) of 96 records, changed after two steps.  The defect: 8 of 96 were seen twice."""
    rows, seen = np.arange(96), []

    def see(batch_size, world, first, steps, offset):
        for rank in range(world):
            batches = TrainingBatches(rows, np.full(96, 200), 100, batch_size=batch_size, rank=rank, world=world)
            batches.set_epoch(3, first, offset)
            parts = list(batches)[:steps]
            seen.extend(row for part in parts for row, _, _ in part)
        return batches.per_step
    shown = 2 * see(*before, 0, 2, 0)
    per_step = now[0] * now[1]
    see(*now, shown // per_step, None, shown % per_step)
    assert len(seen) == len(set(seen)) == 96 - (96 - shown) % per_step

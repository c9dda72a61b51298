"""How fast a run is: FLOPs by hand, the machine's rate kept, and no number where none is known."""

import json
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from main_finetune import finetune
from main_pretrain import pretrain
from tests.support import jobs  # noqa: F401  (registers the tiny models)
from tests.support.tiny_jobs import ST_MEM, VIT, with_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check
from util.contract.registry import build
from util.processes import speed
from util.training.engine import Training

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ============ FLOPs ============
def counted(function):
    with speed.FlopCounter() as counter:
        function()
    return counter


def test_products_and_convolutions_count_forward_and_backward():
    layer, x = nn.Linear(6, 5), torch.randn(7, 6, requires_grad=True)
    assert counted(lambda: layer(x)).total == 2 * 7 * 6 * 5
    assert counted(lambda: layer(x).sum().backward()).total == 3 * 2 * 7 * 6 * 5
    conv, series = nn.Conv1d(3, 4, 5), torch.randn(2, 3, 20)
    assert counted(lambda: conv(series).relu()).total == 2 * 2 * 16 * 3 * 4 * 5


@pytest.mark.parametrize("tokens", [32, 200])
def test_attention_counts_alike_written_out_and_fused(tokens):
    q = torch.randn(1, 2, tokens, 64, requires_grad=True)
    got = counted(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward())
    forward = 2 * 2 * 2 * tokens**2 * 64
    # the fused one computes q k^T again, backward
    assert got.total in (3 * forward, 3.5 * forward) and not got.unknown


def test_a_step_counts_as_by_pytorchs_own_counter():
    model = build("st_mem_vit_tiny_dec128d2b")
    batch, drawn = {"signal": torch.randn(2, 12, 2250)}, {"noise": torch.rand(2, 12, 30)}
    ours = counted(lambda: model(batch, drawn)["loss"].backward()).total
    with FlopCounterMode(display=False) as theirs:
        model(batch, drawn)["loss"].backward()
    assert ours >= theirs.get_total_flops() > 0.9 * ours  # which leaves fused attention out


def test_an_lstm_hides_its_products():
    cell, x = nn.LSTM(4, 8, batch_first=True), torch.randn(2, 5, 4)
    found = counted(lambda: cell(x)[0].sum().backward())
    steps = 2 * 5 * (4 + 8) * 4 * 8  # of its products; either counted, or named
    assert found.unknown or found.total >= 2 * steps


# ============ the machine's rate ============
def test_the_rate_is_measured_once_and_kept(cache, sentences):
    rate = speed.product_rate(CPU, None)
    assert rate > 1e8 and speed.product_rate(CPU, None) == rate
    (said,) = sentences()
    assert "TFLOP/s, measured once (kept in " in said and len(list(cache.iterdir())) == 1
    torch.set_float32_matmul_precision("medium")
    speed.product_rate(CPU, None)
    speed.product_rate(CPU, torch.bfloat16)
    assert len(list(cache.iterdir())) == 3


def test_a_damaged_or_unwritable_cache_costs_a_measurement(cache, sentences, monkeypatch):
    speed.product_rate(CPU, None)
    (file,) = cache.iterdir()
    file.write_text('{"flop')
    assert speed.product_rate(CPU, None) > 1e8 and json.loads(file.read_text())
    sentences()
    monkeypatch.setenv("ECG_CACHE", str(file))
    assert speed.product_rate(CPU, None) > 1e8
    assert "(not kept: " in sentences()[0]


# ============ a run's speed ============
def made(limit, flop, monkeypatch):
    monkeypatch.setattr(speed, "product_rate", lambda device, dtype: limit)
    found, clock = speed.Speed(CPU, None, per_step=8), iter([0.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found.flop = flop
    found.start(3)
    return found


def test_the_share_is_flop_a_second_of_the_rate(monkeypatch):
    found = made(1000.0, 50.0, monkeypatch)
    assert found.shown(3) == {}
    assert found.shown(6) == {"samples_per_second": 12.0, "mfu": 0.6}


@pytest.mark.parametrize("limit, flop", [(1000.0, None), (500.0, 50.0)])
def test_there_is_no_number_rather_than_a_wrong_one(limit, flop, cache, monkeypatch):
    """Not counted; or more than the machine can, which was busy as it was measured."""
    speed.product_rate(CPU, None)
    found = made(limit, flop, monkeypatch)
    assert found.shown(6) == {"samples_per_second": 12.0}
    assert len(list(cache.iterdir())) == (flop is None)  # measured anew by the next run


def test_products_that_are_hidden_are_said(sentences, monkeypatch):
    found = speed.Speed(CPU, None, per_step=8)
    sentences()
    monkeypatch.setattr(speed, "UNCOUNTED", ("addmm",))
    monkeypatch.setattr(speed, "_formulas", dict)
    with found.counting(4):
        nn.Linear(3, 3)(torch.ones(4, 3))
    assert sentences() == ["note: no MFU: products of aten.addmm are not counted"]
    assert found.flop is None


def run(program, config, folder, **train):
    kind = PretrainConfig if program is pretrain else FinetuneConfig
    config = with_store(config, **train)
    program(check({**config, "output_dir": str(folder), "exp_name": "run", "device": "cpu"}, kind))
    lines = (folder / "run" / "log.txt").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_log_and_tensorboard_have_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "product_rate", lambda device, dtype: 1e15)
    contexts, counting = [], speed.Speed._counting

    def counted_once(self, samples):
        contexts.append(samples)
        return counting(self, samples)

    monkeypatch.setattr(speed.Speed, "_counting", counted_once)
    lines = run(pretrain, ST_MEM, tmp_path)
    rates = [line["train_samples_per_second"] for line in lines]
    shares = [line["train_mfu"] for line in lines]
    assert len(lines) == 2 and min(rates) > 0 and contexts == [8]  # one batch of 12
    assert shares[0] / rates[0] == pytest.approx(shares[1] / rates[1], rel=1e-6)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in ("train/samples_per_second", "train/mfu"):
        assert len(events.Scalars(name)) == 12
    assert "samples_per_second" not in (tmp_path / "run" / "log_steps.txt").read_text()


def test_thawed_parameters_are_counted(tmp_path, monkeypatch):
    """A frozen encoder has no backward pass."""
    monkeypatch.setattr(speed, "product_rate", lambda device, dtype: 1e15)
    flop, epoch = [], Training.train_epoch

    def looking(self, stop):
        found = epoch(self, stop)
        flop.append(self.speed.flop)
        return found

    monkeypatch.setattr(Training, "train_epoch", looking)
    run(finetune, {**VIT, "model": {}}, tmp_path)
    assert len(flop) == 2 and flop[1] > 2 * flop[0] > 0

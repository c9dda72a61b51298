"""Schedules against recorded numbers; parameter groups; optimisers against their definitions."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from util.config.keys import PretrainConfig, PretrainTrain
from util.config.load import ROOT, find_overlay, load_config
from util.contract.registry import build
from util.errors import ConfigError
from util.training import optimizer
from util.training.lars import LARS
from util.training.optimizer import (
    Schedule,
    load_optimizer,
    lr_at,
    make_optimizer,
    parameter_groups,
    resolve_lr,
    set_matmul_precision,
    weight_decay_at,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "st_mem.json").read_text())["lr_sched"]
TRAIN = PretrainTrain(weight_decay=0.05, lr=1e-3, min_lr=1e-6, warmup_epochs=3.0, epochs=100)
MODELS = {
    "st_mem_vit_tiny_dec128d2b": {},
    "mtae_vit_tiny_dec128d2b": {},
    "mlae_vit_tiny_dec128d2b": {},
    "st_mem_vit_tiny": {"num_classes": 3},
    "vit_tiny": {"num_classes": 3},
    "mlae_vit_tiny": {"num_classes": 3},
    "xresnet1d50": {"channels": 4},
}


def schedule_of(train):
    return Schedule.of(train, train.lr)


# ============ schedules ============
@pytest.mark.parametrize("epoch", [*GOLDEN["values"], "2.999", "100"])
def test_the_learning_rate_is_the_recorded_one(epoch):
    want = {**GOLDEN["values"], **GOLDEN["values_extra"]}[epoch]
    assert lr_at(float(epoch), **GOLDEN["config"]) == pytest.approx(want, rel=1e-11, abs=1e-18)


def test_without_warm_up_it_starts_at_its_peak():
    assert lr_at(0, **{**GOLDEN["config"], "warmup_epochs": 0}) == GOLDEN["warmup_0_at_0"]


def test_past_the_end_it_stays_at_its_floor():
    """The published schedule rose again."""
    assert GOLDEN["values_extra"]["120"] > 1e-4
    for epoch in (100, 120, 1e6):
        assert lr_at(epoch, **GOLDEN["config"]) == pytest.approx(1e-6)


def test_it_rises_in_the_warm_up_and_never_afterwards():
    values = [lr_at(epoch / 10, **GOLDEN["config"]) for epoch in range(1100)]
    assert (
        values[0] == 0
        and values[:31] == sorted(values[:31])
        and values[30:] == sorted(values[30:], reverse=True)
    )
    # two half-cosines of equal height: halfway is the mean of peak and floor
    assert lr_at(51.5, **GOLDEN["config"]) == pytest.approx((1e-3 + 1e-6) / 2)


def test_a_run_of_warm_up_alone():
    config = {"lr": 1.0, "min_lr": 0.0, "warmup_epochs": 5, "epochs": 5}
    assert lr_at(2.5, **config) == 0.5 and lr_at(5, **config) == 1.0


def test_once_an_epoch_or_every_iteration():
    assert schedule_of(TRAIN).lr_at(1.75) == pytest.approx(1e-3 * 1.75 / 3)
    assert schedule_of(replace(TRAIN, lr_update="epoch")).lr_at(1.75) == pytest.approx(1e-3 * 2 / 3)
    assert schedule_of(replace(TRAIN, lr_update="epoch")).lr_at(50.75) == schedule_of(TRAIN).lr_at(
        50
    )


def test_once_an_epoch_the_first_epoch_of_the_warm_up_trains_too():
    """The defect: a whole epoch at rate 0."""
    train = replace(TRAIN, lr_update="epoch")
    for position, share in ((0, 1 / 3), (0.9, 1 / 3), (1, 2 / 3), (2.5, 1), (3, 1)):
        assert schedule_of(train).lr_at(position) == pytest.approx(1e-3 * share), position
    assert schedule_of(replace(train, warmup_epochs=0.5)).lr_at(0) == pytest.approx(
        1e-3
    )  # never above the peak
    cold = schedule_of(replace(train, warmup_epochs=0))
    steady = schedule_of(replace(TRAIN, warmup_epochs=0))
    for position in (0, 0.5, 7.3):
        assert cold.lr_at(position) == steady.lr_at(math.floor(position))


def test_weight_decay_goes_by_half_a_cosine():
    """DINO: 0.04 to 0.4."""
    config = {"start": 0.04, "end": 0.4, "epochs": 10}
    assert weight_decay_at(0, **config) == pytest.approx(0.04) and weight_decay_at(
        5, **config
    ) == pytest.approx(0.22)
    assert weight_decay_at(10, **config) == pytest.approx(0.4) == weight_decay_at(99, **config)
    assert weight_decay_at(2.5, **config) == pytest.approx(
        0.4 - 0.36 * 0.5 * (1 + math.cos(math.pi / 4))
    )
    assert weight_decay_at(3, start=0.05, end=None, epochs=10) == 0.05


@pytest.mark.parametrize(
    "batch, accumulate, world, want",
    [(16, 1, 1, 1.5e-4 / 16), (16, 4, 4, 1.5e-4), (64, 2, 8, 6e-4)],
)
def test_the_base_rate_scales_with_the_effective_batch(batch, accumulate, world, want):
    train = replace(TRAIN, lr=None, blr=1.5e-4, accum_iter=accumulate)
    assert resolve_lr(train, batch, world) == pytest.approx(want)
    assert resolve_lr(replace(train, lr=0.7), batch, world) == 0.7
    assert resolve_lr(replace(train, lr=0.0), batch, world) == 0.0


def test_no_learning_rate_at_all_is_a_config_error():
    with pytest.raises(ConfigError, match="give train.lr, or train.blr"):
        resolve_lr(replace(TRAIN, lr=None), 16, 1)


def test_schedules_reach_the_optimiser_and_spare_the_spared_group():
    optimizer = make_optimizer(nn.Linear(3, 2), replace(TRAIN, weight_decay=0.04), 1e-3)
    train = replace(TRAIN, weight_decay=0.04, weight_decay_end=0.4)
    assert schedule_of(train).apply(optimizer, 50.0) == pytest.approx(
        GOLDEN["values"]["50"], rel=1e-11
    )
    decayed, spared = optimizer.param_groups
    assert decayed["lr"] == spared["lr"] == pytest.approx(GOLDEN["values"]["50"], rel=1e-11)
    assert decayed["weight_decay"] == pytest.approx(0.22) and spared["weight_decay"] == 0


# ============ parameter groups ============
def grouped(name, **options):
    with torch.device("meta"):
        model = build(name, **MODELS[name])
    names = {id(p): key for key, p in model.named_parameters()}
    groups = parameter_groups(model, 0.05, **options)
    return model, [{names[id(p)] for p in group["params"]} for group in groups], groups


@pytest.mark.parametrize("name", MODELS)
def test_every_trainable_parameter_is_in_exactly_one_group(name):
    model, parts, groups = grouped(name)
    listed = [id(p) for group in groups for p in group["params"]]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(listed) == sorted(trainable) and len(set(listed)) == len(listed)
    assert [(g["weight_decay"], g["decayed"]) for g in groups] == [(0.05, True), (0.0, False)]
    decayed, spared = parts
    assert all(key.endswith("weight") for key in decayed)
    assert all(p.ndim >= 2 for p in groups[0]["params"])
    layers = {key for key, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d))}
    weights = {key for key in dict(model.named_parameters()) if key.endswith(".weight")}
    assert set(decayed) == {key for key in weights if key.removesuffix(".weight") in layers}
    never = ("norm", "bias", "pos_", "lead_embeddings", "mask_embedding")
    assert not any(word in key for key in decayed for word in never)
    assert any(key.endswith("bias") for key in spared)


def test_the_published_option_decays_everything():
    model, (everything,), groups = grouped("st_mem_vit_tiny_dec128d2b", decay_all=True)
    assert everything == {key for key, p in model.named_parameters() if p.requires_grad}
    assert groups[0]["weight_decay"] == 0.05


def test_frozen_parameters_are_not_listed():
    model = build("st_mem_vit_tiny", num_classes=2, leads=["II"])
    listed = {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert id(model.lead_embeddings[1]) in listed and id(model.lead_embeddings[0]) not in listed
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"):
        make_optimizer(model, TRAIN, 1e-3)


# ============ optimisers ============
def steps(train, n=4):
    """Parameters of a small network after n steps on fixed gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    optimizer = make_optimizer(model, train, train.lr)
    for step in range(n):
        schedule_of(train).apply(optimizer, 4.0 + step)
        for number, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(100 * step + number)
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_the_fused_kernel_equals_the_plain_one(name):
    fused, optimizer = steps(replace(TRAIN, optimizer=name))
    plain, _ = steps(replace(TRAIN, optimizer=name, optimizer_kwargs={"fused": False}))
    assert optimizer.defaults["fused"] is True
    for a, b in zip(fused.parameters(), plain.parameters()):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kwargs", [{"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}])
def test_sgd_with_momentum_takes_parameters_that_thaw_later(kwargs):
    """The defect: "expected Tensor as element 0 in argument 2, but got NoneType" at the thaw."""
    train = replace(TRAIN, optimizer="sgd", optimizer_kwargs=kwargs, weight_decay=0.0)
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ours, plain = (
        make_optimizer(models[0], train, 0.1),
        torch.optim.SGD(models[1].parameters(), lr=0.1, **kwargs),
    )
    for step in range(4):
        for model in models:
            for name, parameter in model.named_parameters():
                thawed = step > 1 or name.startswith("1")
                parameter.grad = torch.full_like(parameter, step + 1.0) if thawed else None
        ours.step(), plain.step()
        if step == 1:  # resumed at the thaw
            saved, ours = ours.state_dict(), make_optimizer(models[0], train, 0.1)
            load_optimizer(ours, saved)
    for a, b in zip(*(model.parameters() for model in models)):
        assert torch.allclose(a, b, rtol=1e-12)


def test_adamw_equals_its_definition_with_and_without_decay():
    """Loshchilov and Hutter 2019, algorithm 2: w -= lr * (m / (sqrt(v) + eps) + decay * w)."""
    train = replace(TRAIN, optimizer_kwargs={"betas": [0.9, 0.95]})
    got, _ = steps(train)
    torch.manual_seed(0)
    want = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    for number, (key, w) in enumerate(want.named_parameters()):
        decay = 0.05 if key in ("0.weight", "2.weight") else 0.0
        m = v = torch.zeros_like(w)
        w = w.detach().clone()
        for step in range(4):
            gradient = torch.randn(
                w.shape,
                generator=torch.Generator().manual_seed(100 * step + number),
                dtype=torch.float64,
            )
            lr = lr_at(4.0 + step, lr=1e-3, min_lr=1e-6, warmup_epochs=3.0, epochs=100)
            w = w - lr * decay * w
            m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
            w = w - lr * (m / (1 - 0.9 ** (step + 1))) / (
                (v / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
            )
        assert torch.allclose(dict(got.named_parameters())[key], w, rtol=1e-10), key


def test_lars_is_known_by_name_and_spares_too():
    model, optimizer = steps(replace(TRAIN, optimizer="lars", optimizer_kwargs={"momentum": 0.8}))
    assert isinstance(optimizer, LARS) and [g["weight_decay"] for g in optimizer.param_groups] == [
        0.05,
        0.0,
    ]
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_large_batch_recipe_is_the_published_one():
    """Chen et al. 2020, section 2.2: LARS, 0.3 * batch / 256, here with 8 processes of 512."""
    config = load_config(
        [ROOT / "configs/pretrain/simclr_signal.yaml", find_overlay("simclr_large_batch")],
        program=PretrainConfig,
    )
    train, batch = config.train, config.dataloader.batch_size
    assert 8 * batch == 4096 and resolve_lr(train, batch, 8) == pytest.approx(
        4.8
    ) == 0.075 * math.sqrt(8 * batch)
    optimizer = make_optimizer(nn.Linear(3, 2), replace(train, lr=4.8), 4.8)
    assert isinstance(optimizer, LARS) and [g["weight_decay"] for g in optimizer.param_groups] == [
        1e-6,
        0.0,
    ]
    assert schedule_of(replace(train, lr=4.8)).lr_at(10) == 4.8


@pytest.mark.parametrize(
    "train, words",
    [
        ({"optimizer": "adamax"}, "unknown optimizer 'adamax'; known: adamw"),
        ({"optimizer_kwargs": {"beta": 0.9}}, "optimizer_kwargs"),
        ({"optimizer_kwargs": {"betas": 0.9}}, "optimizer_kwargs"),
        ({"optimizer_kwargs": {"betas": [0.9, 1.5]}}, "1.5"),
        ({"optimizer_kwargs": {"lr": 1.0}}, "optimizer_kwargs"),
        ({"optimizer_kwargs": {"eps": "tiny"}}, "optimizer_kwargs"),
    ],
)
def test_wrong_optimisers_are_config_errors(train, words):
    with pytest.raises(ConfigError, match=words):
        make_optimizer(nn.Linear(2, 2), replace(TRAIN, **train), 1e-3)


def test_foreach_may_be_asked_for():
    optimizer = make_optimizer(
        nn.Linear(2, 2), replace(TRAIN, optimizer_kwargs={"foreach": True}), 1e-3
    )
    assert optimizer.defaults["foreach"] is True and not optimizer.defaults["fused"]


# ============ precision of float32 products ============
@pytest.fixture
def precision(monkeypatch):
    """torch.get_float32_matmul_precision, put back afterwards, with nothing remembered of an
    earlier trial and no stand-in for it (tests/rounds.sh).
    """
    measured = getattr(optimizer._best_on_cpu, "real", optimizer._best_on_cpu)
    monkeypatch.setattr(optimizer, "_best_on_cpu", measured)
    before = torch.get_float32_matmul_precision()
    optimizer._best_on_cpu.cache_clear()
    yield torch.get_float32_matmul_precision
    torch.set_float32_matmul_precision(before)
    optimizer._best_on_cpu.cache_clear()


@pytest.mark.parametrize(
    "seconds, error, chosen",
    [(0.4, 4e-7, "medium"), (0.4, 2e-3, "highest"), (0.9, 4e-7, "highest")],
    ids=["fast and exact", "rounds to bf16", "not faster"],
)
def test_auto_takes_medium_on_a_cpu_where_it_is_faster_and_as_exact(
    seconds, error, chosen, precision, monkeypatch, capsys
):
    monkeypatch.setattr(optimizer, "_products_seconds", {"medium": seconds, "highest": 1.0}.get)
    monkeypatch.setattr(optimizer, "_products_error", {"medium": error, "highest": 4e-7}.get)
    torch.set_float32_matmul_precision("high")
    set_matmul_precision("auto", torch.device("cpu"))
    assert precision() == chosen
    assert (
        f"matmul_precision {chosen}, as on this processor medium is {1 / seconds:.1f} times as "
        f"fast and errs by {error:.0e} (4e-07 with highest)" in capsys.readouterr().out
    )


def test_the_trial_sees_float32s_accuracy_and_what_bf16_loses(precision, monkeypatch):
    assert optimizer._products_error("highest") < 1e-6 and precision() == "highest"
    products = optimizer._products

    def rounding(dtype=torch.float32):
        return products(torch.bfloat16 if dtype == torch.float32 else dtype)

    monkeypatch.setattr(optimizer, "_products", rounding)
    assert optimizer._products_error("highest") > 1e-3


def test_what_is_asked_for_is_set_and_a_gpu_has_high(precision, capsys):
    for asked, device, want in (
        ("medium", "cpu", "medium"),
        ("highest", "cuda", "highest"),
        ("auto", "cuda", "high"),
    ):
        set_matmul_precision(asked, torch.device(device))
        assert precision() == want
    assert capsys.readouterr().out == "float32 products: matmul_precision high, on a GPU\n"

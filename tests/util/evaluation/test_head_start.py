"""Heads that start as a linear probe, and learning rates by depth."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

from tests.support.double import compute_in_double
from tests.support.jobs import run_job
from tests.support.tiny_jobs import CNN, VIT, with_store
from util.config.keys import FinetuneTrain
from util.config.load import find_overlay, load_yaml
from util.contract.registry import build
from util.errors import ConfigError
from util.evaluation.head_start import fit_layer, fit_linear, last_layers
from util.jobs.job import SupervisedTask
from util.scoring.criterion import LOSSES, Criterion
from util.training.optimizer import Schedule, make_optimizer, parameter_groups
from util.weights import checkpoint

FITTED = {**CNN, "train": {**CNN["train"], "head_init": "probe"}}


def data(seed=0, records=80, width=6, classes=3):
    random = np.random.default_rng(seed)
    x = random.standard_normal((records, width)) * [1, 10, 0.1, 1, 1, 1] + 3
    labels = random.random((records, classes)) < 1 / (
        1 + np.exp(1 - x[:, :classes] / x[:, :classes].std(axis=0))
    )
    return torch.from_numpy(x), torch.from_numpy(labels.astype(float))


# ============ the fit ============
def test_the_fit_is_the_penalised_logistic_regression_it_says():
    x, labels = data()
    weight, bias = fit_linear(x, labels, F.binary_cross_entropy_with_logits, 3, penalty=0.3)
    standard, mean, std = (
        (x - x.mean(0)) / x.std(0, correction=0),
        x.mean(0).numpy(),
        x.std(0, correction=0).numpy(),
    )
    for c in range(3):  # classes are fitted one by one

        def objective(w, c=c):
            y = labels[:, c].numpy()
            logits = standard.numpy() @ w[:-1] + w[-1]
            return (
                np.mean(np.logaddexp(0, logits) - y * logits)
                + 0.15 * np.sum(w[:-1] ** 2)
                + w[-1] ** 2 / 160
            )

        best = minimize(objective, np.zeros(7), tol=1e-12).x
        np.testing.assert_allclose(weight[c], best[:-1] / std, rtol=1e-3, atol=1e-4)
        assert bias[c] == pytest.approx(
            best[-1] - np.sum(best[:-1] / std * mean), rel=1e-3, abs=1e-3
        )


def test_classes_that_exclude_each_other_are_fitted_together():
    x, _ = data(1)
    labels = torch.randint(0, 3, (80,), generator=torch.Generator().manual_seed(0))
    weight, bias = fit_linear(x, labels, F.cross_entropy, 3, penalty=0.1)
    standard = (x - x.mean(0)) / x.std(0, correction=0)
    w = (weight * x.std(0, correction=0)).requires_grad_()
    loss = (
        F.cross_entropy(standard @ w.T + (bias + weight @ x.mean(0)), labels)
        + 0.1 / 6 * w.square().sum()
    )
    loss.backward()
    assert w.grad.abs().max() < 1e-5  # it is the minimum (the biases' share does not depend on w)


def test_numbers_are_fitted_where_they_are_known():
    x, _ = data(4)
    values = (2 * x[:, :2] + 100).numpy()
    values[::3, 0] = np.nan
    criterion = Criterion.fitted("mse", ("a", "b"), values.astype(np.float32))
    weight, bias = fit_linear(x, torch.from_numpy(values), criterion, 2, penalty=1e-4)
    predictions = criterion.to_units((x @ weight.T + bias).numpy())
    np.testing.assert_allclose(predictions, (2 * x[:, :2] + 100).numpy(), rtol=5e-3)


def test_a_constant_feature_gets_no_weight():
    x, labels = data(2)
    x[:, 2] = 7
    weight, bias = fit_linear(x, labels, F.binary_cross_entropy_with_logits, 3)
    assert (weight[:, 2] == 0).all() and weight.isfinite().all() and bias.isfinite().all()


def test_the_last_layer_of_each_head_is_fitted_and_the_criterion_falls():
    model = build(
        "fusion", signal={"channels": 4}, spectrogram={"channels": 2}, gating=True, three_head=True
    )
    layers = last_layers(model)
    assert [layer.in_features for layer in layers] == [512, 256, 256]
    x, labels = data(3, width=6)
    layer = nn.Linear(6, 3)
    before, after = fit_layer(layer, x, labels, LOSSES["bce"])
    assert after < before
    assert F.binary_cross_entropy_with_logits(
        layer(x.float()), labels.float()
    ).item() == pytest.approx(after, rel=1e-5)


def test_a_head_that_ends_otherwise_is_refused():
    model = build("st_mem_vit_tiny", num_classes=2)
    model.head = nn.Sequential(nn.Linear(192, 2), nn.Softplus())
    with pytest.raises(ConfigError, match="head_init.*Softplus"):
        last_layers(model)


# ============ in a job ============
def weights_of(folder):
    return checkpoint.load(folder / "run" / "checkpoint-last.pth")["model"]


def fit_to_the_end():
    """In float64, and L-BFGS until it finds nothing better: where it otherwise stops, the weights
    are known to 1e-4 of themselves alone, and features that differ by a rounding make it stop
    elsewhere.
    """
    compute_in_double()
    plain = torch.optim.LBFGS
    torch.optim.LBFGS = lambda parameters, **options: plain(
        parameters, **{**options, "tolerance_grad": 0, "tolerance_change": 0, "max_iter": 1000}
    )


def test_one_and_two_processes_fit_the_same_head(tmp_path):
    """Nothing learns after it."""
    config = with_store(FITTED, lr=0.0, epochs=1, steps_per_epoch=1)
    two = {**config, "dataloader": {**config["dataloader"], "batch_size": 4}}
    jobs = [
        run_job("main_finetune", given, tmp_path / str(world), world=world, patch=fit_to_the_end)
        for world, given in ((1, config), (2, two))
    ]
    assert [job.statuses for job in jobs] == [[0], [0, 0]], [job.text for job in jobs]
    assert [job.text.count("head fitted on frozen features") for job in jobs] == [1, 1], jobs[
        1
    ].text
    first, second = weights_of(tmp_path / "1"), weights_of(tmp_path / "2")
    assert first["classifier.head.1.weight"].abs().max() > 0.01
    for key, value in first.items():
        if "head" in key:
            assert value.dtype == torch.float64
            torch.testing.assert_close(
                second[key], value, rtol=0, atol=1e-5 * value.abs().max().item()
            )


def test_a_resumed_run_does_not_fit_again_and_equals_an_undisturbed_one(tmp_path):
    config = with_store(FITTED)
    run_job("main_finetune", config, tmp_path / "1")
    run_job("main_finetune", config, tmp_path / "2", stop_at=("step", 3))
    assert "head fitted" not in run_job("main_finetune", config, tmp_path / "2").text
    first, second = weights_of(tmp_path / "1"), weights_of(tmp_path / "2")
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=0)


def test_the_fitted_head_begins_below_the_random_one_s_loss(tmp_path):
    """Nothing learns, so the losses are those of the start."""
    losses = []
    for name, start in (("random", "random"), ("probe", "probe")):
        job = run_job(
            "main_finetune", with_store(VIT, head_init=start, lr=0.0, epochs=1), tmp_path / name
        )
        assert job.statuses == [0], job.text
        losses.append(pd.read_csv(tmp_path / name / "run" / "test_metrics.csv")["loss"].item())
    assert losses[1] < losses[0] - 0.2


# ============ learning rates by depth ============
@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        (
            "st_mem_vit_tiny",
            {},
            {
                "head.weight": 0,
                "norm.weight": 0,
                "block3.attn": 1,
                "block0": 4,
                "pos_embedding": 5,
                "lead_embeddings.0": 5,
                "to_patch_embedding": 5,
            },
        ),
        (
            "xresnet1d50",
            {"channels": 4},
            {"head.0.weight": 0, "stages.3.0": 1, "stages.0": 4, "stem": 5},
        ),
        (
            "fusion",
            {"gating": True, "spectrogram": {"channels": 2}, "signal": {"channels": 4}},
            {
                "head": 0,
                "gate": 0,
                "signal.stages.3": 1,
                "signal.stem": 5,
                "spectrogram.stages.0": 4,
            },
        ),
    ],
)
def test_rates_fall_from_the_head_to_the_input(name, arguments, expected):
    task = SupervisedTask(build(name, **arguments) if arguments else build(name, num_classes=2))
    train = FinetuneTrain(lr=0.8, epochs=2, weight_decay=0.1)
    optimizer = make_optimizer(task, train, 1.0, layer_decay=0.5)
    Schedule.of(train, 0.8).apply(optimizer, 0.0)
    rates = {
        parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }
    seen = set()
    for key, parameter in task.classifier.named_parameters():
        for prefix, steps in expected.items():
            if key.startswith(prefix):
                assert rates[parameter] == pytest.approx(0.8 * 0.5**steps), key
                seen.add(prefix)
    assert seen == set(expected)
    assert len(rates) == sum(p.requires_grad for p in task.parameters())


@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        ("cpc_lstm", {"channels": 4}, {"head": 1, "lstm": 0.1, "convolutions": 0.01}),
        (
            "st_mem_vit_tiny",
            {"num_classes": 2},
            {"head": 1, "norm": 1, "block3": 0.1, "block2": 0.1, "block1": 0.1, "block0": 0.01},
        ),
        (
            "attention_pool",
            {"encoder": "vit_tiny", "num_classes": 2},
            {"pool": 1, "head": 1, "encoder.block3": 0.1, "encoder.cls_embedding": 0.01},
        ),
    ],
)
def test_the_preset_gives_a_tenth_and_a_hundredth(name, arguments, expected):
    preset = load_yaml(find_overlay("layer_rates"))["train"]
    task = SupervisedTask(build(name, **arguments))
    train = FinetuneTrain(lr=0.8, epochs=2, **preset)
    optimizer = make_optimizer(task, train, 1.0, train.layer_decay, train.layer_rates)
    scales = {p: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in task.classifier.named_parameters():
        for prefix in (prefix for prefix in expected if key.startswith(f"{prefix}.")):
            assert scales[parameter] == expected[prefix], key


def test_rates_by_depth_are_factors_and_stand_alone():
    task, train = SupervisedTask(build("cpc_lstm", channels=4)), FinetuneTrain(lr=1.0, epochs=2)
    for rates, message in (
        ([1], "one or more of the encoder"),
        ([1, 0], "above 0"),
        ([1, "x"], "above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_optimizer(task, train, 1.0, layer_rates=rates)
    with pytest.raises(ConfigError, match="both say how rates fall"):
        make_optimizer(task, train, 1.0, 0.5, [1, 0.1])


def test_without_a_decay_there_are_the_two_groups_of_before():
    groups = parameter_groups(SupervisedTask(build("st_mem_vit_tiny", num_classes=2)), 0.1)
    assert [(group["decayed"], group["lr_scale"]) for group in groups] == [(True, 1), (False, 1)]


def test_an_encoder_that_says_nothing_is_one_level(tmp_path):
    from tests.support.tiny_encoder import TinyEncoder

    encoder = TinyEncoder(4, norm=False)
    assert {name: encoder.level_of(name) for name in ("conv.weight", "head.weight")} == {
        "conv.weight": 1,
        "head.weight": 0,
    }

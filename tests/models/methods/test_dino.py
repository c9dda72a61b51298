"""DINO: the loss against its definition, centre, schedules, frozen prototypes, one process
against two.
"""

import math

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from models.layers.heads import DINOHead, Prototypes
from models.methods.dino import DINOLoss, teacher_temperature_at
from tests.support.double import in_double
from tests.support.tiny_encoder import (
    assert_every_parameter_learns,
    gradients,
    run_step,
    tiny_batch,
)
from tests.support.two_processes import run_processes
from util.contract.registry import build
from util.errors import ConfigError

SMALL = {"encoder": "tiny_encoder", "head_width": 32, "bottleneck": 8, "head_out": 40}


def make(**arguments):
    torch.manual_seed(0)
    return build("dino", **{**SMALL, **arguments})


def train(model, steps, rows=slice(None), first=0, optimizer=None):
    """SGD steps, two an epoch of four epochs; returns the losses and the last gradients."""
    runner = DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer = optimizer or torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.5
    )
    losses = []
    for step in range(first, first + steps):
        out = run_step(
            model, tiny_batch(rows, seed=step, epoch=step / 2, progress=step / 8), runner
        )
        optimizer.zero_grad()
        out["loss"].backward()
        model.before_step(step / 2)
        optimizer.step()
        model.after_step((step + 1) / 8)
        losses.append(out["loss"].detach())
    return losses, gradients(model)


# ============ loss ============
def dino_by_definition(student, teacher, centre, student_temperature, teacher_temperature):
    """Algorithm 1 with multi-crop, in double precision, one pair and one sample at a time."""
    terms = []
    for t, teacher_view in enumerate(teacher.double()):
        for s, student_view in enumerate(student.double()):
            if s != t:
                for a, b in zip(teacher_view, student_view):
                    p = ((a - centre.double()) / teacher_temperature).softmax(0)
                    terms.append(-(p * (b / student_temperature).log_softmax(0)).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("globals_, views", [(2, 6), (2, 2), (1, 3), (3, 4)])
def test_loss_is_its_definition(globals_, views):
    torch.manual_seed(2)
    student, teacher = torch.rand(views, 5, 11) * 2 - 1, torch.rand(globals_, 5, 11) * 2 - 1
    loss = DINOLoss(11)
    loss.centre.copy_(torch.rand(11) - 0.5)
    out = loss(student, teacher, 0.07)
    assert out["loss"].item() == pytest.approx(
        dino_by_definition(student, teacher, loss.centre, 0.1, 0.07).item(), rel=1e-5
    )


def test_entropy_and_kl_are_their_definitions():
    student, teacher = torch.randn(4, 5, 11) / 5, torch.randn(2, 5, 11) / 5
    out = DINOLoss(11)(student, teacher, 0.04)
    target = torch.distributions.Categorical(logits=teacher / 0.04)
    assert out["teacher_entropy"].item() == pytest.approx(target.entropy().mean().item(), rel=1e-5)
    pairs = [(t, s) for t in range(2) for s in range(4) if s != t]
    kl = sum(
        F.kl_div(
            (student[s] / 0.1).log_softmax(-1),
            (teacher[t] / 0.04).softmax(-1),
            reduction="batchmean",
        )
        for t, s in pairs
    ) / len(pairs)
    assert out["kl"].item() == pytest.approx(kl.item(), rel=1e-4)


def test_collapse_shows_in_entropy_and_kl():
    loss = DINOLoss(11)
    uniform = torch.zeros(2, 5, 11)
    out = loss(uniform, uniform, 0.04)
    assert out["teacher_entropy"].item() == pytest.approx(math.log(11))
    assert out["kl"].item() == pytest.approx(0, abs=1e-6)
    one = 10 * F.one_hot(torch.zeros(2, 5, dtype=torch.long), 11).float()
    assert loss(one, one, 0.04)["teacher_entropy"].item() == pytest.approx(0, abs=1e-6)


# ============ centre ============
def test_defect_5_centre_is_the_average_of_the_mean_logit():
    """Constant logits c: after k updates the centre is (1 - 0.9^k) c, whatever the batch."""
    loss = DINOLoss(3)
    constant = torch.tensor([1.0, -2.0, 3.0])
    for batch in (4, 9, 2):
        loss.update_centre(constant.expand(2, batch, 3))
    assert torch.allclose(loss.centre, (1 - 0.9**3) * constant)


def test_centre_moves_only_in_training_and_after_the_loss():
    model = make()
    run_step(model.eval(), tiny_batch())
    assert model.loss.centre.abs().max() == 0
    teachers = []
    model.teacher_head.register_forward_hook(
        lambda module, inputs, output: teachers.append(output[1])
    )
    out = run_step(model.train(), tiny_batch())
    assert torch.allclose(model.loss.centre, 0.1 * teachers[0].mean((0, 1)), atol=1e-7)
    again = run_step(make(), tiny_batch())
    # computed with the centre before the update
    assert out["loss"].item() == again["loss"].item()


# ============ schedules ============
@pytest.mark.parametrize(
    "epoch, expected", [(0, 0.04), (15, 0.055), (30, 0.07), (300.99, 0.07), (1e6, 0.07)]
)
def test_defect_5_teacher_temperature_has_no_end_to_run_past(epoch, expected):
    assert teacher_temperature_at(epoch, 0.04, 0.07, 30) == pytest.approx(expected)
    assert teacher_temperature_at(epoch, 0.04, 0.07, 0) == 0.07


@pytest.mark.parametrize("number", [float, lambda x: torch.tensor(x, dtype=torch.float64)])
def test_the_temperature_goes_by_epochs_and_the_momentum_by_progress(number):
    model, seen = (
        make(
            warmup_teacher_epochs=2,
            warmup_teacher_temperature=0.04,
            teacher_temperature=0.08,
            momentum=0.9,
        ),
        [],
    )
    model.loss.register_forward_pre_hook(lambda module, arguments: seen.append(float(arguments[2])))
    out = run_step(model, tiny_batch(epoch=number(1.0), progress=number(0.25)))
    assert seen == [pytest.approx(0.06)]
    assert out["momentum"].item() == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)


def test_defect_5_the_last_step_and_one_beyond_work():
    model = make()
    for epoch, progress in ((300.999, 0.99999), (301.0, 1.0), (302.0, 1.003)):
        out = run_step(model, tiny_batch(epoch=epoch, progress=progress))
        model.after_step(progress)
        assert out["loss"].isfinite() and out["momentum"].item() == pytest.approx(1, abs=1e-6)


# ============ frozen prototypes ============
def test_prototypes_take_part_in_no_step_of_epoch_0():
    for epoch, still in ((0.0, True), (0.99, True), (1.0, False)):
        model = make()
        run_step(model, tiny_batch(epoch=epoch))["loss"].backward()
        assert_every_parameter_learns(model)  # DDP waits for the prototypes' gradient, too
        model.before_step(epoch)
        assert (model.head.last_layer.weight.grad is None) == still
        assert gradients(model)["head.mlp.0.weight"].abs().max() > 0


def test_the_first_steps_after_the_frozen_ones_are_no_longer_than_a_runs_first():
    """The defect: gradients of zero let Adam's count of steps run on, so that its correction for
    a short past was gone when the real ones came: steps of 2.5 times the length after 1,000.
    """
    model = make(freeze_last_layer=1000)
    weight = model.head.last_layer.weight
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01)
    before = weight.detach().clone()
    for epoch in [*range(50), 1000]:
        optimizer.zero_grad()
        run_step(model, tiny_batch(epoch=float(epoch)))["loss"].backward()
        model.before_step(epoch)
        optimizer.step()
        assert torch.equal(weight, before) == (epoch < 1000)
    assert optimizer.state[weight]["step"] == 1
    # Adam's first step: the rate, in the direction of the sign
    moved = (weight - before * (1 - 0.01 * 0.01)).abs()
    assert moved.median().item() == pytest.approx(0.01, rel=1e-2)


def test_the_frozen_layer_does_not_change_under_adamw_with_weight_decay():
    model = make()
    before = model.head.last_layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], 0.01, weight_decay=0.4
    )
    train(model, 2, optimizer=optimizer)
    assert torch.equal(model.head.last_layer.weight, before)
    train(model, 2, first=2, optimizer=optimizer)
    assert (model.head.last_layer.weight - before).abs().max() > 1e-4


def test_prototypes_are_never_frozen_where_published():
    model = make(freeze_last_layer=0)
    run_step(model, tiny_batch(epoch=0.0))["loss"].backward()
    model.before_step(0.0)
    assert model.head.last_layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("arguments, std", [({}, 0.02), ({"head_init_std": 0.044}, 0.044)])
def test_the_head_starts_at_the_std_that_is_asked_for(arguments, std):
    model = make(head_width=128, bottleneck=64, **arguments)
    weights = torch.cat([layer.weight.flatten() for layer in model.head.mlp[::2]])
    assert weights.std().item() == pytest.approx(std, rel=0.03)
    assert all(
        torch.equal(a, b) for a, b in zip(model.head.parameters(), model.teacher_head.parameters())
    )


# ============ views ============
def test_teacher_sees_global_views_only_and_each_length_is_one_call():
    """Published: all ten views have one length, so the encoder runs once, with one
    BatchNorm batch.
    """
    for views, calls in (
        ("dino_signal", [(40, 12, 250)]),
        ("dino_signal_short", [(8, 12, 250), (32, 12, 100)]),
    ):
        model = make(views=views)
        run_step(model, tiny_batch(samples=4))
        assert model.teacher_encoder.calls == [(8, 12, 250)] and model.encoder.calls == calls


def test_spectrogram_views_are_one_call():
    model = make(views="dino_spectrogram")
    out = run_step(model, tiny_batch(samples=4))
    assert model.teacher_encoder.calls == [(8, 12, 13, 21)] and model.encoder.calls == [
        (40, 12, 13, 21)
    ]
    assert out["loss"].isfinite()


def test_views_without_a_global_one_are_an_error():
    with pytest.raises(ConfigError, match="global: true"):
        make(views=[{"count": 2, "transforms": []}])


# ============ method ============
def test_defects_3_and_15_every_parameter_learns_and_has_one_name():
    model = make()
    run_step(model, tiny_batch(epoch=1.0))["loss"].backward()
    assert_every_parameter_learns(model)
    assert not [name for name in gradients(model) if name.startswith("teacher")]
    assert model.exports == {"student": model.encoder, "teacher": model.teacher_encoder}
    assert not [name for name in model.state_dict() if name.startswith(("exports", "student"))]


def test_defect_7_a_batch_of_one_works():
    out = run_step(make(), tiny_batch(slice(0, 1)))
    assert all(value.ndim == 0 and value.isfinite() for value in out.values())


def test_logged_values_are_scalars_without_gradient():
    out = run_step(make(), tiny_batch())
    assert set(out) == {
        "loss",
        "teacher_entropy",
        "kl",
        "embedding_std",
        "alignment",
        "uniformity",
        "momentum",
    }
    assert all(
        value.ndim == 0 and not value.requires_grad for key, value in out.items() if key != "loss"
    )
    assert out["loss"].item() == pytest.approx(
        (out["teacher_entropy"] + out["kl"]).item(), rel=1e-5
    )


def test_teacher_follows_the_student():
    model = make(momentum=0.75, momentum_end=0.75)
    start = model.head.last_layer.weight.detach().clone()
    with torch.no_grad():
        model.head.last_layer.weight.add_(1)
        model.encoder.linear.bias.add_(1)
    before = model.teacher_encoder.linear.bias.clone()
    model.after_step(0.3)
    assert torch.allclose(model.teacher_head.last_layer.weight, start + 0.25, atol=1e-6)
    assert torch.allclose(model.teacher_encoder.linear.bias, before + 0.25, atol=1e-6)


def test_state_dict_alone_restores_the_method():
    model = make()
    train(model, 3)
    torch.manual_seed(5)
    restored = build("dino", **SMALL)
    restored.load_state_dict(model.state_dict())
    assert restored.loss.centre.abs().max() > 0
    train(model, 3, first=3)
    train(restored, 3, first=3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), restored.state_dict().values())
    )


def test_statistics_are_the_same_in_both_encoders():
    model = make()
    model.fit_statistics([torch.full((4, 12, 250), 2.0)])
    assert torch.equal(model.encoder.standardize.mean, torch.full((12,), 2.0))
    assert torch.equal(model.encoder.standardize.mean, model.teacher_encoder.standardize.mean)


def test_published_head():
    head = DINOHead(512)
    assert [(layer.in_features, layer.out_features) for layer in head.mlp[::2]] == [
        (512, 512),
        (512, 512),
        (512, 128),
    ]
    assert [type(layer).__name__ for layer in head.mlp[1::2]] == ["GELU", "GELU"]
    assert {name: tuple(p.shape) for name, p in head.last_layer.named_parameters()} == {
        "weight": (65536, 128)
    }


def test_prototypes_are_cosines_whatever_the_length_of_the_weights():
    layer = Prototypes(8, 30)
    x = torch.randn(5, 8)
    expected = F.cosine_similarity(x[:, None], layer.weight[None], dim=-1) * x.norm(
        dim=1, keepdim=True
    )
    assert torch.allclose(layer(x), expected, atol=1e-5)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(30, 1) + 0.5)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_logits_stay_float32_under_autocast():
    layer, x = Prototypes(8, 30), F.normalize(torch.randn(5, 8), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(x)
        under = run_step(make(), tiny_batch(epoch=1.0))["loss"]
    assert torch.equal(logits, layer(x))
    assert under.item() == pytest.approx(
        run_step(make(), tiny_batch(epoch=1.0))["loss"].item(), rel=0.02
    )


# ============ processes ============
def dino_steps(steps):
    rows = (
        slice(8 * dist.get_rank(), 8 * dist.get_rank() + 8)
        if dist.is_initialized()
        else slice(None)
    )
    with in_double():
        model = make()
        losses, last = train(model, steps, rows)
    return {"losses": torch.stack(losses), "gradients": last, "centre": model.loss.centre.clone()}


@pytest.mark.parametrize("steps", [1, 4])
def test_two_processes_of_batch_8_equal_one_of_batch_16(steps):
    """One step: frozen prototypes; four: also later epochs, losses with a centre, a teacher
    that has moved.
    """
    alone = dino_steps(steps)
    ranks = run_processes(dino_steps, 2, steps)
    assert alone["losses"].dtype == torch.float64
    torch.testing.assert_close(
        (ranks[0]["losses"] + ranks[1]["losses"]) / 2, alone["losses"], rtol=1e-9, atol=0
    )
    expected = alone["gradients"]
    scale = max(gradient.abs().max() for gradient in expected.values())
    for rank in ranks:
        assert (rank["centre"] - alone["centre"]).abs().max() < 1e-9 * alone["centre"].abs().max()
        assert rank["gradients"].keys() == expected.keys()
        for name, gradient in rank["gradients"].items():
            assert (gradient - expected[name]).abs().max() < 1e-9 * scale, name
    assert torch.equal(ranks[0]["centre"], ranks[1]["centre"])

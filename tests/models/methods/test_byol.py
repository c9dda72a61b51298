"""BYOL: the symmetric loss, the target's moving average, and the published scripts' defects."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from models.layers.ema import follow, momentum_at, slow_copy
from models.methods.byol import byol_loss
from tests.support.tiny_encoder import (
    assert_every_parameter_learns,
    gradients,
    run_step,
    tiny_batch,
)
from tests.support.two_processes import run_processes
from util.contract.registry import build
from util.errors import ConfigError

STEPS = 4


def make(**arguments):
    torch.manual_seed(0)
    return build(
        "byol", **{"encoder": "tiny_encoder", "head_width": 32, "head_out": 8, **arguments}
    )


def record_outputs(module):
    """A list that fills with the module's outputs."""
    outputs = []
    module.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    return outputs


def online_parameters(model):
    return [
        p.detach().clone() for part in (model.encoder, model.projector) for p in part.parameters()
    ]


def target_parameters(model):
    return [
        p.detach().clone()
        for part in (model.target_encoder, model.target_projector)
        for p in part.parameters()
    ]


def train(model, steps, rows=slice(None), first=0):
    """Plain SGD steps on the rows of one batch each; returns the online parameters after every
    step.
    """
    runner = DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    history = []
    for step in range(first, first + steps):
        out = run_step(model, tiny_batch(rows, seed=step, progress=step / STEPS), runner)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        model.after_step((step + 1) / STEPS)
        history.append(online_parameters(model))
    return history


# ============ loss ============
def test_loss_is_two_minus_two_cosines():
    prediction, target = torch.randn(2, 6, 5)
    expected = (
        sum(((p / p.norm() - t / t.norm()) ** 2).sum() for p, t in zip(prediction, target)) / 6
    )  # equation 2
    assert byol_loss(prediction, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_defect_4_each_view_predicts_the_target_projection_of_the_other():
    model = make()
    with torch.no_grad():  # a target that has come apart from the online network
        for parameter in model.target_encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    predictions, targets = record_outputs(model.predictor), record_outputs(model.target_projector)
    loss = run_step(model, tiny_batch())["loss"].item()
    (first, second), (one, two) = predictions[0].chunk(2), targets[0].chunk(2)
    assert loss == pytest.approx((byol_loss(first, two) + byol_loss(second, one)).item(), rel=1e-5)
    published = (byol_loss(first, one) + byol_loss(second, one)).item()
    own = (byol_loss(first, one) + byol_loss(second, two)).item()
    assert abs(loss - published) > 1e-3 * loss and abs(loss - own) > 1e-3 * loss


def test_swapping_the_views_leaves_the_loss():
    losses = []
    for order in (1, -1):
        model = make()
        views = model.views
        model.views = lambda *given: views(*given)[::order]
        losses.append(run_step(model, tiny_batch())["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_defects_3_and_15_every_parameter_learns_and_has_one_name():
    model = make()
    run_step(model, tiny_batch())["loss"].backward()
    assert_every_parameter_learns(model)
    assert not [name for name in gradients(model) if name.startswith("target")]


def test_defect_7_a_batch_of_one_works():
    out = run_step(make(), tiny_batch(slice(0, 1)))
    assert all(value.ndim == 0 and value.isfinite() for value in out.values())


def test_logged_values_are_scalars_without_gradient():
    out = run_step(make(), tiny_batch(progress=0.5))
    assert set(out) == {"loss", "embedding_std", "alignment", "uniformity", "momentum"}
    assert all(
        value.ndim == 0 and not value.requires_grad for key, value in out.items() if key != "loss"
    )
    assert out["momentum"].item() == pytest.approx(0.998)


# ============ target ============
@pytest.mark.parametrize("progress, momentum", [(0, 0.996), (0.5, 0.998), (1, 1.0), (1.5, 1.0)])
def test_momentum_rises_on_a_cosine_and_stays_at_its_end(progress, momentum):
    assert momentum_at(progress, 0.996, 1.0) == pytest.approx(momentum, abs=1e-12)
    assert momentum_at(progress, 0.9, 0.9) == pytest.approx(
        0.9, abs=1e-12
    )  # the published constant


def assert_closed_form(start, history, target, momenta):
    """target_k = prod(m) theta_0 + sum_j (1 - m_j) prod_{i > j} m_i theta_j."""
    for place, value in enumerate(target):
        expected, weight = torch.zeros_like(value), 1.0
        for online, momentum in zip(history[::-1], momenta[::-1]):
            expected += weight * (1 - momentum) * online[place]
            weight *= momentum
        expected += weight * start[place]
        assert torch.allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("arguments", [{"momentum": 0.5}, {"momentum": 0.9, "momentum_end": 0.9}])
def test_target_after_k_steps_is_the_closed_form_of_the_average(arguments):
    model = make(**arguments)
    start = online_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(start, target_parameters(model)))
    history = train(model, STEPS)
    momenta = [
        momentum_at((k + 1) / STEPS, arguments["momentum"], arguments.get("momentum_end", 1.0))
        for k in range(STEPS)
    ]
    assert max((a - b).abs().max() for a, b in zip(start, history[-1])) > 1e-2, (
        "nothing was learned"
    )
    assert_closed_form(start, history, target_parameters(model), momenta)


def byol_steps():
    model = make(momentum=0.5)
    start = online_parameters(model)
    rows = slice(8 * dist.get_rank(), 8 * dist.get_rank() + 8)
    return {
        "start": start,
        "history": train(model, STEPS, rows),
        "target": target_parameters(model),
    }


def test_target_on_two_processes_is_the_closed_form_and_the_same_on_both():
    ranks = run_processes(byol_steps, 2)
    momenta = [momentum_at((k + 1) / STEPS, 0.5, 1.0) for k in range(STEPS)]
    for rank in ranks:
        assert_closed_form(rank["start"], rank["history"], rank["target"], momenta)
    assert all(torch.equal(a, b) for a, b in zip(ranks[0]["target"], ranks[1]["target"]))


def test_only_parameters_are_averaged():
    """BatchNorm's running statistics are the copy's own, those of its own activations."""
    fast = torch.nn.BatchNorm1d(3)
    slow = slow_copy(fast)
    fast.running_mean += 1
    with torch.no_grad():
        fast.weight += 1
    follow(slow, fast, 0.75)
    assert torch.allclose(slow.weight, torch.full((3,), 1.25)) and torch.equal(
        slow.running_mean, torch.zeros(3)
    )
    assert not any(p.requires_grad for p in slow.parameters()) and all(
        p.requires_grad for p in fast.parameters()
    )


def test_target_batch_norm_gathers_its_own_statistics():
    model = make(encoder={"name": "tiny_encoder", "norm": True})
    run_step(model, tiny_batch())
    assert model.target_encoder.norm.running_mean.abs().max() > 0
    assert model.target_projector[1].num_batches_tracked == 1


@pytest.mark.parametrize("joint", [True, False])
def test_batches_of_batch_norm_hold_both_views_or_one_after_the_other(joint):
    """Published: each network sees one view after the other; then each batch of a norm is one
    view's.
    """
    model = make(encoder={"name": "tiny_encoder", "norm": True}, joint_views=joint)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert len(norms) == 5  # encoders, projectors, predictor
    out = run_step(model, tiny_batch(samples=4))
    assert [norm.num_batches_tracked.item() for norm in norms] == [1 if joint else 2] * 5
    shapes = [(8, 12, 250)] if joint else [(4, 12, 250)] * 2
    assert model.encoder.calls == shapes == model.target_encoder.calls
    batch, fresh = tiny_batch(samples=4), make(encoder={"name": "tiny_encoder", "norm": True})
    views = fresh.views(batch["signal"], batch["random"])
    online = torch.nn.Sequential(fresh.encoder, fresh.projector, fresh.predictor)
    target = torch.nn.Sequential(fresh.target_encoder, fresh.target_projector)
    p, t = (
        network(torch.cat(views)).chunk(2) if joint else [network(view) for view in views]
        for network in (online, target)
    )
    expected = byol_loss(p[0], t[1]) + byol_loss(p[1], t[0])
    assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_state_dict_alone_restores_the_method():
    model = make(momentum=0.5)
    train(model, 2)
    torch.manual_seed(5)
    restored = build("byol", encoder="tiny_encoder", head_width=32, head_out=8, momentum=0.5)
    restored.load_state_dict(model.state_dict())
    train(model, 2, first=2)
    train(restored, 2, first=2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), restored.state_dict().values())
    )


def test_statistics_are_the_same_in_both_encoders():
    model = make()
    model.fit_statistics([torch.full((4, 12, 250), 2.0)])
    assert torch.equal(model.encoder.standardize.mean, torch.full((12,), 2.0))
    assert torch.equal(model.encoder.standardize.mean, model.target_encoder.standardize.mean)


def test_wrong_number_of_views_is_an_error():
    with pytest.raises(ConfigError, match="needs 2 views"):
        make(views=[{"transforms": ["flip"]}])


def test_published_heads():
    model = build("byol", encoder={"name": "tiny_encoder", "width": 512})
    for head, widths in ((model.projector, (512, 512, 128)), (model.predictor, (128, 512, 128))):
        assert [type(layer).__name__ for layer in head] == [
            "Linear",
            "BatchNorm1d",
            "ReLU",
            "Linear",
        ]
        assert (head[0].in_features, head[0].out_features, head[3].out_features) == widths

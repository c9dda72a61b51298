"""SimCLR: NT-Xent against its definition, one process against two, and the published
scripts' defects.
"""

import math

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from models.layers.heads import embedding_health, mlp
from models.methods.simclr import nt_xent
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


def make(**arguments):
    torch.manual_seed(0)
    return build(
        "simclr", **{"encoder": "tiny_encoder", "head_width": 32, "head_out": 8, **arguments}
    )


def nt_xent_by_definition(first, second, temperature):
    """Equation 1 of the paper: two loops over the 2 N views, in double precision."""
    views = [z / z.norm() for z in torch.cat([first, second]).double()]
    n = len(first)
    total = 0.0
    for i in range(2 * n):
        positive = math.exp(views[i] @ views[(i + n) % (2 * n)] / temperature)
        others = sum(math.exp(views[i] @ views[k] / temperature) for k in range(2 * n) if k != i)
        total += -math.log(positive / others)
    return total / (2 * n)


# ============ loss ============
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_defect_13_nt_xent_is_its_definition(temperature):
    torch.manual_seed(1)
    first = torch.randn(7, 5)
    second = first + 0.7 * torch.randn(7, 5)
    expected = nt_xent_by_definition(first, second, temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_defect_13_at_temperature_0_1_gives_0_0127_where_the_published_loss_gives_0_938():
    """92 pairs of cosine 0.9566, each orthogonal to all others: the loss is log(1 + 182
    e^(-9.566)).
    """
    pairs, cosine = 92, 0.9566
    basis = torch.eye(2 * pairs)
    first, second = basis[:pairs], cosine * basis[:pairs] + math.sqrt(1 - cosine**2) * basis[pairs:]
    assert nt_xent(first, second, 0.1).item() == pytest.approx(0.0127, abs=5e-5)
    everything = torch.cat([first, second])
    similarity = (everything @ everything.T / 0.1).exp()
    published = -(torch.exp(torch.tensor(cosine / 0.1)) / (similarity.sum(1) - math.e)).log().mean()
    assert published.item() == pytest.approx(0.938, abs=1e-3)


def test_swapping_the_views_leaves_the_loss():
    with in_double():
        first, second = torch.randn(2, 9, 6)
        assert nt_xent(first, second, 0.1).item() == pytest.approx(
            nt_xent(second, first, 0.1).item(), rel=1e-12
        )


def test_loss_does_not_depend_on_lengths_and_falls_with_alignment():
    first, second = torch.randn(2, 9, 6)
    assert torch.allclose(
        nt_xent(first, second, 0.1), nt_xent(3 * first, second / 7, 0.1), rtol=1e-5
    )
    assert nt_xent(first, first, 0.1) < nt_xent(first, second, 0.1)


def test_gradient_of_nt_xent():
    first, second = torch.randn(2, 4, 3, requires_grad=True)
    ours = torch.autograd.grad(nt_xent(first, second, 0.5), (first, second))
    step = 1e-4
    for z, gradient in zip((0, 1), ours):
        for place in ((0, 0), (3, 2)):
            ends = []
            for sign in (1, -1):
                pair = [first.detach().double().clone(), second.detach().double().clone()]
                pair[z][place] += sign * step
                ends.append(nt_xent_by_definition(*pair, 0.5))
            assert gradient[place].item() == pytest.approx(
                (ends[0] - ends[1]) / (2 * step), abs=1e-5
            )


# ============ processes ============
def simclr_step(samples):
    """Loss and DDP's gradients of this process's share of a batch, in float64."""
    share = samples // dist.get_world_size()
    rows = slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)
    with in_double():
        model = make()
        # kept until after backward: it does the averaging
        wrapped = DistributedDataParallel(model)
        out = run_step(model, tiny_batch(rows, samples), wrapped)
        out["loss"].backward()
    return {"loss": out["loss"].detach(), "gradients": gradients(model)}


def test_two_processes_of_batch_8_equal_one_of_batch_16():
    with in_double():
        alone = make()
        out = run_step(alone, tiny_batch(samples=16))
        out["loss"].backward()
    ranks = run_processes(simclr_step, 2, 16)
    assert out["loss"].dtype == torch.float64
    assert sum(rank["loss"] for rank in ranks).item() / 2 == pytest.approx(
        out["loss"].item(), rel=1e-9
    )
    expected = gradients(alone)
    scale = max(gradient.abs().max() for gradient in expected.values())
    for rank in ranks:
        assert rank["gradients"].keys() == expected.keys()
        for name, gradient in rank["gradients"].items():
            assert (gradient - expected[name]).abs().max() < 1e-9 * scale, name


def test_without_the_other_process_the_gradient_would_differ():
    """The test above can fail: the mean gradient of two times 8 crops alone is not that of 16."""
    parts = []
    for rows in (slice(0, 8), slice(8, 16), slice(0, 16)):
        model = make()
        run_step(model, tiny_batch(rows))["loss"].backward()
        parts.append(gradients(model)["encoder.linear.weight"])
    assert ((parts[0] + parts[1]) / 2 - parts[2]).abs().max() > 0.03 * parts[2].abs().max()


# ============ method ============
@pytest.mark.parametrize("joint", [True, False])
def test_batches_of_batch_norm_hold_both_views_or_one_after_the_other(joint):
    """Published: the encoder sees one view after the other; then each batch of a norm is
    one view's.
    """
    model = make(encoder={"name": "tiny_encoder", "norm": True}, joint_views=joint)
    out = run_step(model, tiny_batch(samples=4))
    assert model.encoder.norm.num_batches_tracked == (1 if joint else 2)
    assert model.encoder.calls == ([(8, 12, 250)] if joint else [(4, 12, 250)] * 2)
    batch, fresh = tiny_batch(samples=4), make(encoder={"name": "tiny_encoder", "norm": True})
    views = fresh.views(batch["signal"], batch["random"])
    network = torch.nn.Sequential(fresh.encoder, fresh.head)
    first, second = network(torch.cat(views)).chunk(2) if joint else map(network, views)
    assert out["loss"].item() == pytest.approx(nt_xent(first, second, 0.1).item(), rel=1e-5)


def test_defects_3_and_15_every_parameter_learns_and_has_one_name():
    model = make()
    out = run_step(model, tiny_batch())
    out["loss"].backward()
    assert_every_parameter_learns(model)
    assert gradients(model)["head.2.weight"].abs().max() > 0


def test_defect_7_a_batch_of_one_keeps_its_axis_and_has_nothing_to_learn_from():
    model, one = make(), tiny_batch(slice(0, 1))
    assert model.head(model.encoder.forward_features(one["signal"])).ndim == 2
    with pytest.raises(ConfigError, match="there is no other: raise dataloader.batch_size"):
        run_step(model, one)


def test_logged_values_are_scalars_without_gradient():
    out = run_step(make(), tiny_batch())
    assert set(out) == {"loss", "embedding_std", "alignment", "uniformity"}
    assert all(
        value.ndim == 0 and not value.requires_grad for key, value in out.items() if key != "loss"
    )


def test_loss_falls_when_trained():
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        out = run_step(model, tiny_batch())
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.7 * losses[0]


def test_statistics_reach_the_encoder():
    model = make()
    model.fit_statistics(iter([torch.full((4, 12, 250), 2.0), torch.full((4, 12, 250), 4.0)]))
    assert torch.allclose(model.encoder.standardize.mean, torch.full((12,), 3.0))


def test_wrong_number_of_views_is_an_error():
    with pytest.raises(ConfigError, match="needs 2 views"):
        make(views=[{"count": 3, "transforms": []}])


# ============ head and health ============
def test_head_is_512_512_128_with_one_relu():
    head = mlp(512, 512, 128)
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Linear"]
    assert [(layer.in_features, layer.out_features) for layer in head[::2]] == [
        (512, 512),
        (512, 128),
    ]
    normed = mlp(128, 512, 128, norm=True)
    assert [type(layer).__name__ for layer in normed] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_health_shows_collapse_and_spread():
    torch.manual_seed(0)
    spread = embedding_health(torch.randn(2000, 64), torch.randn(2000, 64))
    assert spread["embedding_std"].item() == pytest.approx(1, abs=0.02)
    assert spread["alignment"].item() == pytest.approx(2, abs=0.05)
    one = torch.randn(1, 64).expand(50, 64)
    collapsed = embedding_health(one, one)
    assert [
        round(collapsed[key].item(), 4) for key in ("embedding_std", "alignment", "uniformity")
    ] == [0, 0, 0]


def test_uniformity_is_its_definition():
    first, second = torch.randn(2, 10, 4)
    expected = (
        sum(
            torch.pdist(F.normalize(z, dim=1)).square().mul(-2).exp().mean().log()
            for z in (first, second)
        )
        / 2
    )
    assert embedding_health(first, second)["uniformity"].item() == pytest.approx(
        expected.item(), abs=1e-5
    )

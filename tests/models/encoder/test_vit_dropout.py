"""Dropout of the ViT encoders: where it acts, at which rate, and that evaluation knows none."""

import pytest
import torch
from torch import nn

from models.layers.blocks import SHORT, Attention, DropPath
from util.contract.registry import build

ENCODERS = {"st_mem_vit_tiny": 150, "vit_tiny": 150, "mlae_vit_tiny": 60}  # length of their crops


def make(name, **options):
    torch.manual_seed(0)
    return build(name, seq_len=ENCODERS[name], **options)


def entering(model, name):
    """Tokens that enter the first block, (batch, n, width)."""
    caught = []
    hook = model.block0.register_forward_pre_hook(
        lambda module, inputs: caught.append(inputs[0].detach())
    )
    model.forward_features(
        torch.randn(8, 12, ENCODERS[name], generator=torch.Generator().manual_seed(1))
    )
    hook.remove()
    return caught[0]


@pytest.mark.parametrize("name", ENCODERS)
def test_embedded_tokens_are_dropped_in_training_and_not_in_evaluation(name):
    """A quarter of the numbers is zero, the others are scaled by 4/3; class token and separators
    included.
    """
    model = make(name, drop_out_rate=0.25)
    whole, dropped = entering(model.eval(), name), entering(model.train(), name)
    assert torch.equal(
        whole, entering(make(name).train(), name)
    )  # rate 0: training and evaluation agree
    lost = dropped == 0
    assert abs(lost.float().mean() - 0.25) < 0.02 and not (whole == 0).any()
    torch.testing.assert_close(dropped[~lost], whole[~lost] / 0.75)
    assert (lost.float().mean((0, 2)) > 0.15).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_dropout_stands_after_the_embedding_the_attention_and_both_linear_layers(name):
    model = make(name, drop_out_rate=0.25, attn_drop_out_rate=0.5)
    rates = {
        key: module.p for key, module in model.named_modules() if isinstance(module, nn.Dropout)
    }
    places = ("attn.fn.to_out.1", "ff.fn.net.2", "ff.fn.net.4")
    blocks = {f"block{i}.{place}": 0.25 for i in range(model.depth) for place in places}
    assert rates == {"dropout": 0.25} | blocks
    assert {getattr(model, f"block{i}").attn.fn.attention_dropout for i in range(model.depth)} == {
        0.5
    }


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "rates", [{"drop_out_rate": 0.25}, {"attn_drop_out_rate": 0.5}, {"drop_path_rate": 0.5}]
)
def test_every_rate_changes_training_and_leaves_evaluation(name, rates):
    model, plain = make(name, **rates), make(name).eval()
    x = torch.randn(4, 12, ENCODERS[name])
    assert torch.equal(model.eval()(x), plain(x))
    assert not torch.allclose(model.train()(x), plain(x), atol=1e-3)


def test_dropped_paths_leave_the_mean_as_it_is():
    """Whole samples, and what stays is divided by the share that stays."""
    path, x = DropPath(0.25), torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    out = path.train()(x)
    assert (out == out[:, :1, :1]).all() and set(out.unique().tolist()) == {
        0.0,
        x.new_tensor(4 / 3).item(),
    }
    assert out.mean().item() == pytest.approx(1, abs=0.03) and torch.equal(path.eval()(x), x)


@pytest.mark.parametrize("tokens", [32, SHORT, SHORT + 1, 384])
def test_attention_is_the_same_written_out_and_fused(tokens, monkeypatch):
    """A CPU takes the faster one for the number of tokens."""
    attention, x = Attention(192, 3), torch.randn(2, tokens, 192, dtype=torch.float64)
    attention.double()
    monkeypatch.setattr("models.layers.blocks.SHORT", 0)
    fused = attention(x)
    monkeypatch.setattr("models.layers.blocks.SHORT", 1000)
    torch.testing.assert_close(attention(x), fused, rtol=1e-12, atol=1e-12)
    attention.attention_dropout = 0.5
    assert not torch.allclose(attention(x), fused, atol=1e-3), (
        "written out, it drops weights as well"
    )
    torch.testing.assert_close(
        torch.stack([attention(x) for _ in range(400)]).mean(0), fused, rtol=0, atol=0.1
    )
    torch.testing.assert_close(attention.eval()(x), fused, rtol=1e-12, atol=1e-12)

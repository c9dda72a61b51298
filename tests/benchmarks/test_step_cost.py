"""A budget of the training step: a change that adds 3 % of operations or bytes fails here."""

import pytest
import torch
from torch import nn

from benchmarks import step_cost
from models.layers.blocks import SHORT, Attention, PreNorm

# ST-MEM base, 128 a step, bf16.  Lower them where a change saves some.
OPERATIONS, GIGABYTES = 914, 62.1
MORE = 1.03


def test_a_step_of_st_mem_base_stays_within_its_budget(capsys):
    assert step_cost.main([]) == 0
    table = capsys.readouterr().out
    _, _, operations, gigabytes, _ = table.splitlines()[-1].split("|")
    assert 0.9 * OPERATIONS < int(operations) <= MORE * OPERATIONS, table
    assert 0.9 * GIGABYTES < float(gigabytes) <= MORE * GIGABYTES, table


@pytest.mark.parametrize("more", ["copy", "cast"])
def test_a_copy_or_a_cast_in_every_block_would_not(more, monkeypatch):
    name = "st_mem_vit_tiny_dec128d2b"
    before = step_cost.step_cost(name, 4)

    def forward(self, x):
        x = x.clone() if more == "copy" else x.double().float()
        return self.fn(self.norm(x)).clone()

    monkeypatch.setattr(PreNorm, "forward", forward)
    after = step_cost.step_cost(name, 4)
    assert after.operations.total() > MORE * before.operations.total()
    assert after.bytes.total() > MORE * before.bytes.total()


def test_gradients_of_q_k_and_v_are_joined_in_one_pass():
    """The defect: two, stacked as (3, batch, heads, ...) and then put into the product's order."""
    attention, cost = Attention(128, 2), step_cost.Cost()
    out = attention(torch.randn(2, SHORT + 1, 128))
    with step_cost.counting(cost):
        out.backward(torch.ones_like(out))
    gradients = 4 * 2 * (SHORT + 1) * 3 * 128
    assert cost.operations["casts and copies"] == 1
    assert cost.bytes["casts and copies"] == 2 * gradients


def test_bytes_are_those_of_inputs_and_outputs():
    cost, layer = step_cost.Cost(), nn.Linear(8, 4)
    with step_cost.counting(cost):
        layer(torch.ones(2, 8)[:, :].view(2, 8)).add_(1.0)
    assert dict(cost.operations) == {"others": 1, "products": 1, "additions": 1}
    assert dict(cost.bytes) == {
        "others": 4 * 16,  # ones
        "products": 4 * (16 + 32 + 4 + 8),
        "additions": 4 * (8 + 8),
    }

"""The account on paper of several GPUs: by hand, and from the real model's bytes."""

import pytest

from benchmarks import several_gpus
from util.contract.registry import build

TINY = "st_mem_vit_tiny_dec128d2b"


def test_an_exchange_by_hand():
    # 4 of a ring: each sends 2 * 3/4 of 1000 bytes
    assert several_gpus.exchange(1000, 4, within=100, between=10) == (1500, 15)
    # two machines: the link between them, unless it is the faster one
    sent, seconds = several_gpus.exchange(1600, 16, within=100, between=10)
    assert (sent, seconds) == (3000, 300)
    assert several_gpus.exchange(1600, 16, within=100, between=200)[1] == 30


@pytest.mark.parametrize("backward, added", [(10, 5), (14.5, 1.5), (60, 1.5)])
def test_the_backward_pass_hides_all_but_the_last_bucket(backward, added):
    assert several_gpus.exposed(15, backward, last=0.1) == pytest.approx(added)


def test_bytes_are_those_of_the_models_gradients(capsys):
    learning = [p for p in build(TINY).parameters() if p.requires_grad]
    assert several_gpus.gradient_bytes(TINY) == 4 * sum(p.numel() for p in learning)
    assert several_gpus.main([TINY, "--gpus", "8", "16", "--between", "10", "80"]) == 0
    out = capsys.readouterr().out
    assert "reckoned, not measured" in out
    assert [line.split(" | ")[:2] for line in out.splitlines()[4:]] == [
        ["| 8", "-"],
        ["| 16", "10 GB/s"],
        ["| 16", "80 GB/s"],
    ]

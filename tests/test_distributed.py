"""What processes tell each other."""
import pytest
import torch
import torch.distributed as dist
from two_processes import run_processes

from util import distributed


def hand_out(value):
    return distributed.broadcast_object(value if dist.get_rank() == 0 else "another value")


def test_everyone_gets_process_0s_object():
    value = {"epoch": 3, "best": {"loss": 0.5}, "none": None, "names": ["a", "\u00e9"], "empty": {},
             "rng": [{"cpu": torch.arange(5, dtype=torch.uint8)}], "model": {"w": torch.rand(100, 7).half()}}
    for received in run_processes(hand_out, 2, value):
        assert torch.equal(received["model"]["w"], value["model"]["w"]) and received["model"]["w"].dtype == torch.half
        assert torch.equal(received["rng"][0]["cpu"], value["rng"][0]["cpu"])
        assert {**received, "model": 0, "rng": 0} == {**value, "model": 0, "rng": 0}


def test_one_process_keeps_its_object():
    value = object()
    assert distributed.broadcast_object(value) is value


class Surprise:
    """Not plain."""


def hand_out_code():
    return distributed.broadcast_object(Surprise() if dist.get_rank() == 0 else None)


def test_what_could_run_code_is_refused():
    with pytest.raises(RuntimeError, match="Weights only load failed"):
        run_processes(hand_out_code, 2)

"""What processes tell each other, and how long they wait for it."""

import time

import pytest
import torch
import torch.distributed as dist

from tests.support.two_processes import limit_collectives, run_processes
from util.processes import collectives


def hand_out(value):
    return collectives.broadcast_object(value if dist.get_rank() == 0 else "another value")


def test_everyone_gets_process_0s_object():
    value = {
        "epoch": 3,
        "best": {"loss": 0.5},
        "none": None,
        "names": ["a", "\u00e9"],
        "empty": {},
        "rng": [{"cpu": torch.arange(5, dtype=torch.uint8)}],
        "model": {"w": torch.rand(100, 7).half()},
    }
    for received in run_processes(hand_out, 2, value):
        assert (
            torch.equal(received["model"]["w"], value["model"]["w"])
            and received["model"]["w"].dtype == torch.half
        )
        assert torch.equal(received["rng"][0]["cpu"], value["rng"][0]["cpu"])
        assert {**received, "model": 0, "rng": 0} == {**value, "model": 0, "rng": 0}


def test_one_process_keeps_its_object():
    value = object()
    assert collectives.broadcast_object(value) is value


class Surprise:
    """Not plain."""


def hand_out_code():
    return collectives.broadcast_object(Surprise() if dist.get_rank() == 0 else None)


def test_what_could_run_code_is_refused():
    with pytest.raises(RuntimeError, match="Weights only load failed"):
        run_processes(hand_out_code, 2)


def wait_for_main(seconds):
    """Process 0 works alone for longer than a collective may take."""
    limit_collectives(seconds)
    value = collectives.on_main(lambda: time.sleep(2 * seconds) or {"mean": 0.5})
    if dist.get_rank() == 0:
        time.sleep(2 * seconds)
    collectives.barrier()
    limit_collectives(120)
    return value


def test_long_work_of_process_0_runs_into_no_time_limit():
    """Such as a bootstrap.  The defect: the others' collective timed out after 30 minutes."""
    assert run_processes(wait_for_main, 2, 1) == [{"mean": 0.5}] * 2

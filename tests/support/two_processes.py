"""Run a test's function on several gloo processes of this machine.

def total(start):                          # at the top level of the test's module
    x = torch.tensor(start + dist.get_rank())
    dist.all_reduce(x)
    return x

def test_total():
    assert run_processes(total, 2, 10) == [21, 21]
"""

import datetime
import multiprocessing
import os
import socket
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from tests.support.stand_in import force_matmul_precision
from util.processes import collectives


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_rank(function, args, rank, world, port, folder):
    """One process: what torchrun would set, the process group, the function, its result or
    its traceback in a file.
    """
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    force_matmul_precision()
    try:
        collectives.start("cpu")
        torch.save(function(*args), folder / f"{rank}.pt")
        dist.barrier()  # nobody leaves while another still needs it
        collectives.stop()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)  # without waiting for the process group


def _wait(processes, deadline):
    """Until all have ended, one has failed or time is up."""
    while any(process.exitcode is None for process in processes):
        if time.monotonic() > deadline or any(process.exitcode for process in processes):
            return
        time.sleep(0.02)


def limit_collectives(seconds):
    """A time limit for the normal group's collectives, set once all are connected: how long that
    takes is the machine's affair.
    """
    collectives.total(torch.ones(1))
    collectives.barrier()
    distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=seconds), dist.group.WORLD)


def run_processes(function, world: int = 2, *args, timeout: float = 600) -> list:
    """What ``function(*args)`` returns on each of ``world`` processes, rank by rank.

    Args:
        function: a function at the top level of an importable module; a process group is ready
            when it runs.
        world: number of processes.
        args: handed to the function; they and the results are plain values and tensors.
        timeout: seconds for everything.

    Raises:
        RuntimeError: a rank failed (its traceback is the message), or time ran out.
    """
    # a server that has imported torch and forks from there: seconds faster than a new interpreter
    # each time, and safe, as it has never computed anything (a process whose OpenMP threads have
    # run must not fork)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "torch._dynamo"])
    deadline, port = time.monotonic() + timeout, _free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [
            context.Process(
                target=_run_rank, args=(function, args, rank, world, port, folder), daemon=True
            )
            for rank in range(world)
        ]
        try:
            for process in processes:
                process.start()
            _wait(processes, deadline)
        finally:
            for process in processes:
                process.kill()
                process.join()
        errors = sorted(folder.glob("*.error"))
        if errors:
            raise RuntimeError(
                "\n".join(f"rank {path.stem}:\n{path.read_text()}" for path in errors)
            )
        results = [folder / f"{rank}.pt" for rank in range(world)]
        if not all(process.exitcode == 0 for process in processes):
            raise RuntimeError(
                f"{function.__name__} on {world} processes: exit codes "
                f"{[process.exitcode for process in processes]} (-9: stopped after {timeout} s)"
            )
        return [torch.load(path, weights_only=True) for path in results]

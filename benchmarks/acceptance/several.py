"""Two GPUs against one: what the exchange of gradients adds to a step, plain and in a CUDA graph."""

import json
import multiprocessing
import os
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist

from benchmarks.acceptance import fast
from benchmarks.acceptance.decide import gap, st_mem
from benchmarks.acceptance.harness import Skip
from benchmarks.acceptance.right import free_port
from benchmarks.timing import interleaved
from util.processes import collectives

WAYS = {"one": (1, False), "two": (2, False), "two, graph": (2, True)}  # (processes, cuda_graph)


@dataclass(frozen=True)
class Found:
    """What one way has left: seconds of a step and of an exchange alone, losses, and what the
    run's head says of the step.
    """

    step: float
    alone: float
    losses: list
    said: str


def one_rank(rank, world, port, run, cuda_graph, file):
    """A process of ``world``: steps of ST-MEM on one batch, then the exchange alone."""
    if world > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    run.device = collectives.start(run.device.type, captured=cuda_graph)
    path, overrides, batch = st_mem(run)
    go, steps, training = fast.stepping(
        run, path, overrides, batch, cuda_graph=str(cuda_graph).lower()
    )
    losses = []
    training.state.meters.add = lambda epoch, step, values, records: losses.append(values[0])
    times = {"step": go}
    if world > 1:
        gradients = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
        numbers = torch.zeros(gradients, device=run.device)
        times["alone"] = lambda: dist.all_reduce(numbers)
    best = {
        name: interleaved({name: way}, 1 if run.small else 3, run.device)[name].best
        for name, way in times.items()
    }
    if rank == 0:
        said = (training.folder / "console.txt").read_text().splitlines()
        found = Found(
            best["step"] / steps,
            best.get("alone", 0.0),
            [float(loss) for loss in losses],
            [line for line in said if "CUDA graph" in line][-1],
        )
        file.write_text(json.dumps(asdict(found)))
    collectives.stop()


def launched(run, world, cuda_graph) -> Found:
    """``one_rank`` on so many processes."""
    run.jobs += 1  # the processes' run has a folder of its own
    context, port, file = multiprocessing.get_context("spawn"), free_port(), run.out / "way.json"
    ranks = [
        context.Process(target=one_rank, args=(rank, world, port, run, cuda_graph, file))
        for rank in range(world)
    ]
    try:
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()  # the part's time limit ends it
    finally:
        for process in ranks:
            process.kill()
    if any(process.exitcode for process in ranks):
        raise RuntimeError(f"processes ended with {[process.exitcode for process in ranks]}")
    return Found(**json.loads(file.read_text()))


def exchange(run):
    """Steps of one and of two GPUs; the exchange alone, and what it adds to a step."""
    if run.device.type == "cuda" and torch.cuda.device_count() < 2:
        raise Skip("one GPU here")
    assert run.store, "made once, before the processes"
    found = {way: launched(run, *how) for way, how in WAYS.items()}
    path, _, batch = st_mem(run)
    one, plain, graph = found.values()
    for way in ("two", "two, graph"):
        each = found[way]
        run.row(
            f"{path}, {batch} a process: one, {way}",
            f"{1000 * one.step:.1f}, {1000 * each.step:.1f} ms a step: efficiency "
            f"{one.step / each.step:.0%}; an exchange alone {1000 * each.alone:.1f} ms",
        )
    off = gap(graph.losses, plain.losses)
    run.row(
        f"two: losses of the graph against plain; {graph.said}",
        f"{off:.1e}",
        off < 1e-3 and (run.small or graph.said.startswith("the step runs as one CUDA graph")),
        "1e-3, relative; runs as one CUDA graph",
    )

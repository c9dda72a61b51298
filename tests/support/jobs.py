"""Main programs in processes of their own, which are stopped at a chosen point by a real signal.

    # undisturbed; what it did, in order
    points = run_job("main_pretrain", config, folder, world=2).points
    # process 0 gets SIGKILL before step 7
    run_job("main_pretrain", config, other, world=2, stop_at=("step", 7))
    run_job("main_pretrain", config, other, world=2)  # resumes: --resume auto is always given

Quick, as torch is loaded once, by the server that the processes are forked from.  A point is
about to be passed when the process is stopped: a step, an evaluation, a line of a log, a sync or
a rename of a file.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from models.encoder.st_mem_vit import ST_MEM_ViT
from models.methods.st_mem import ST_MEM
from tests.support.stand_in import force_matmul_precision
from tests.support.two_processes import _free_port
from util.contract.registry import register

PRELOAD = [
    "torch.distributed",
    "torch._dynamo",
    "matplotlib.pyplot",
    "tensorboard",
    "main_pretrain",
    "main_finetune",
    "util.contract.registry",
    "models.methods.dino",
]


@register
def nano_st_mem(seq_len=150, patch_size=75, num_leads=12, drop_path_rate=0.3):
    """ST-MEM of 0.1 M parameters, with drop path."""
    return ST_MEM(
        ST_MEM_ViT(
            seq_len=seq_len,
            patch_size=patch_size,
            num_leads=num_leads,
            leads=None,
            width=64,
            depth=2,
            heads=1,
            drop_path_rate=drop_path_rate,
        ),
        mask_ratio=0.5,
        decoder={"width": 32, "depth": 1, "heads": 1},
    )


@register
def nano_vit(num_classes=None, seq_len=150, patch_size=75, num_leads=12, drop_out_rate=0.0):
    """The encoder of ``nano_st_mem``."""
    return ST_MEM_ViT(
        num_classes=num_classes,
        seq_len=seq_len,
        patch_size=patch_size,
        num_leads=num_leads,
        leads=None,
        width=64,
        depth=2,
        heads=1,
        drop_out_rate=drop_out_rate,
    )


@dataclass
class Result:
    """What a job left: exit status of every process (negative: killed), what was printed,
    points of process 0.
    """

    statuses: list
    text: str
    points: list
    seconds: float


def _arm(path, stop_at, number):
    """Write down every point, and send oneself the signal at ``stop_at``: (kind, how many
    of them came before).
    """
    from util.evaluation import evaluator
    from util.training.engine import Training
    from util.training.log.run_log import RunLog

    log = open(path, "w", buffering=1)
    seen = {}

    def pointed(name, function):
        def wrapper(*args, **kwargs):
            print(name, file=log)
            if stop_at == (name, seen.setdefault(name, 0)):
                os.kill(os.getpid(), number)
            seen[name] += 1
            return function(*args, **kwargs)

        return wrapper

    Training.take_step = pointed("step", Training.take_step)
    RunLog.line = pointed("line", RunLog.line)
    evaluator.predict = pointed("evaluation", evaluator.predict)
    os.fsync, os.replace = pointed("sync", os.fsync), pointed("rename", os.replace)


def _process(program, argv, folder, rank, world, port, stop_at, number, patch):
    """One process of a job."""
    if world > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    torch.set_num_threads(1)
    force_matmul_precision()
    with open(folder / f"console{rank}.txt", "w", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        if rank == 0:
            _arm(folder / "points.txt", stop_at, number)
        if patch is not None:
            patch()
        from util.processes.program import run_main

        status = run_main(importlib.import_module(program).main, argv)
        sys.stdout.flush()
        os._exit(status)


def run_job(
    program,
    config,
    folder,
    *flags,
    world=1,
    stop_at=None,
    number=signal.SIGKILL,
    patch=None,
    timeout=600,
):
    """Run a main program on ``world`` processes with results in ``folder/run``, resuming from its
    last checkpoint.

    Args:
        stop_at: (kind, count) of the point at which process 0 gets the signal ``number``: step,
            evaluation, line, sync or rename, and how many of this kind came before since the
            start.
        patch: a function at a module's top level, called in every process before the program.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    place = () if "--output_dir" in flags else ("--output_dir", str(folder))
    argv = [
        "--config_path",
        str(folder / "config.yaml"),
        *place,
        "--exp_name",
        "run",
        "--resume",
        "auto",
        *flags,
    ]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port, began = _free_port(), time.monotonic()
    processes = [
        context.Process(
            target=_process, args=(program, argv, folder, rank, world, port, stop_at, number, patch)
        )
        for rank in range(world)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0, began + timeout - time.monotonic()))
            if process.exitcode and process.exitcode < 0:
                break  # as the launcher does: one is killed, the others are ended
    finally:
        for process in processes:
            process.kill()
            process.join()
    text = "".join(
        (folder / f"console{rank}.txt").read_text()
        for rank in range(world)
        if (folder / f"console{rank}.txt").exists()
    )
    points = (folder / "points.txt").read_text().split() if (folder / "points.txt").exists() else []
    return Result(
        [process.exitcode for process in processes], text, points, time.monotonic() - began
    )

"""The only place that knows how many processes there are.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process.  CPU tensors
travel by gloo, GPU tensors by nccl.
"""

import ctypes
import datetime
import functools
import inspect
import io
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from util.errors import ECGError
from util.processes.stopping import Preempted, in_group, working_alone

TIMEOUT = datetime.timedelta(minutes=30)  # of a collective that all enter at about the same time
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LONG = datetime.timedelta(days=7)  # of waiting for what process 0 does alone


def start(device: str = "auto") -> torch.device:
    """Join the process group if torchrun started several processes; returns this process's
    device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ECGError("device is cuda but PyTorch sees no GPU; use --gpus cpu (or device: cpu)")
    use_gpu = torch.cuda.is_available() and device != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if use_gpu and local_rank >= torch.cuda.device_count():
        raise ECGError(
            f"process {local_rank} of this node has no GPU of its own: PyTorch sees "
            f"{torch.cuda.device_count()}; name fewer with --gpus"
        )
    where = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(where)
    else:
        _keep_memory()
    if in_group() and not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if use_gpu else "gloo",
            store=_store(),
            rank=rank(),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=TIMEOUT,
        )
    return where


def _keep_memory():
    """Have glibc keep memory that was freed: every step takes the same again, and each page that
    it gave back to the system costs a fault: without it crops are filtered in 1.4 times the CPU
    time.  No number depends on it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        for option, size in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 1 << 30)):
            mallopt(option, size)


@functools.cache
def _store():
    """The run's key-value store."""
    return _of_this_attempt(next(rendezvous("env://", timeout=TIMEOUT))[0])


def _of_this_attempt(store):
    """The launcher keeps its store over restarts: without a prefix of their own, restarted
    processes would find, and try, the addresses of the dead ones (torch 2.13).
    """
    attempt = (
        os.environ.get("TORCHELASTIC_RUN_ID", ""),
        os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )
    return dist.PrefixStore(" ".join(attempt), store)


@functools.cache
def _long_group():
    """All processes, with a time limit for long waits."""
    return dist.new_group(backend="gloo", timeout=LONG)


def stop() -> None:
    """Leave the process group; all others must leave, too."""
    if dist.is_initialized():
        dist.destroy_process_group()
    _long_group.cache_clear()
    _store.cache_clear()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 writes files.  torchrun's, before the process has joined the
    group.
    """
    return (
        dist.get_rank() if dist.is_initialized() else int(os.environ["RANK"]) if in_group() else 0
    )


def is_main() -> bool:
    """True on process 0."""
    return rank() == 0


def lost_contact(error) -> bool:
    """Whether a collective failed because another process has ended, or cannot be reached."""
    # gloo, which serves the CPU, has no error type; its messages begin with the place in its
    # source.
    return (
        isinstance(error, dist.DistError)
        or isinstance(error, RuntimeError)
        and "/gloo/" in str(error)
    )


def first_to_say(text: str) -> bool:
    """True on the first process that says ``text``: where all fail alike, one speaks, and none
    waits.
    """
    try:
        store = (
            _store()
            if dist.is_initialized()
            else _of_this_attempt(
                dist.TCPStore(
                    os.environ["MASTER_ADDR"],
                    int(os.environ["MASTER_PORT"]),
                    wait_for_workers=False,
                    timeout=datetime.timedelta(seconds=2),
                )
            )
        )
        return store.add(f"said {text}", 1) == 1
    except (RuntimeError, KeyError):
        return (
            not dist.is_initialized() or is_main()
        )  # who kept the store has gone, and not without a word


def barrier() -> None:
    """Wait for all processes, however long that takes."""
    if world() > 1:
        _wait(dist.barrier(group=_long_group(), async_op=True))


def _wait(work):
    """Wait for a collective in Python, where signals are noticed; Preempted comes when it is
    complete.
    """
    stopped = None
    while True:
        try:
            while not work.is_completed():
                time.sleep(0.002)
            break
        except Preempted as request:
            # process 0, asked as well, will say so; if it does not, end_when_stuck helps
            stopped = request
    work.wait()
    if stopped:
        raise stopped


def averaging(model) -> DistributedDataParallel:
    """``model`` with its gradients averaged over processes; buffers are left to each."""
    known = inspect.signature(DistributedDataParallel).parameters
    # The name until torch 2.12 is the second one
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    buffers: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **buffers)


def total(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of ``tensor`` over processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool) -> bool:
    """True on every process if ``flag`` is true on one.  A small CPU message, no GPU
    synchronisation.
    """
    return bool(total(torch.tensor(int(flag))))


def on_main(function):
    """Call ``function()`` on process 0 while the others wait for it, however long it takes;
    returns its value (plain types and tensors) on all.

    Raises:
        ECGError: on every process, where ``function`` raised one; Preempted, where it was asked
            to stop.
    """
    if world() == 1:
        return function()
    value, failure = None, None
    if is_main():
        try:
            with working_alone():
                value = function()
        except (ECGError, Preempted) as error:
            failure = error
    told = broadcast_object(
        {
            "value": value,
            "failed": failure is not None,
            "text": str(failure),
            "stopped": isinstance(failure, Preempted),
        }
    )
    if told["failed"]:
        raise failure or (Preempted if told["stopped"] else ECGError)(told["text"])
    return told["value"]


def same_tensors(tensors) -> None:
    """Hand process 0's tensors to all, in place.  BatchNorm statistics, for one, are each
    process's own in training, and a checkpoint keeps those of process 0: what is evaluated must
    be what is saved.
    """
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def gather_objects(value) -> list:
    """Every process's ``value`` on all, in rank order; see ``broadcast_object``."""
    return [broadcast_object(value, source) for source in range(world())]


def broadcast_object(value, source: int = 0):
    """The ``value`` (plain types and tensors, nested as in a checkpoint) of process ``source`` on
    all, tensors on the CPU.  The others wait for it however long it takes.

    Travels as what torch.save writes and is read as a checkpoint is: nothing else is accepted.
    """
    if world() == 1:
        return value
    content = io.BytesIO()
    if rank() == source:
        torch.save(value, content)
    size = torch.tensor(content.tell())
    _wait(dist.broadcast(size, source, group=_long_group(), async_op=True))
    data = torch.empty(int(size), dtype=torch.uint8)
    if rank() == source:
        data = torch.frombuffer(content.getbuffer(), dtype=torch.uint8)
    _wait(dist.broadcast(data, source, group=_long_group(), async_op=True))
    if rank() == source:
        return value
    return torch.load(io.BytesIO(data.numpy().data), map_location="cpu", weights_only=True)


def gather(x: torch.Tensor) -> torch.Tensor:
    """x of every process, (world, *x.shape); each x gets the gradient of every process's use of
    it, summed.

        rank 0: x0          rank 0: x0 x1
        rank 1: x1   ->     rank 1: x0 x1

    A loss of what all processes hold so has, by DDP's mean of gradients, those of one process
    with all samples.
    """
    return _Gather.apply(x) if dist.is_initialized() else x[None]


class _Gather(torch.autograd.Function):
    """The work of ``gather`` on several processes."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]

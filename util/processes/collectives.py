"""The one place that knows how many processes there are, and through which they exchange data.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process.  CPU tensors
travel by gloo, GPU tensors by nccl.
"""

import ctypes
import datetime
import functools
import inspect
import io
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from util.console import group
from util.errors import ConfigError, ECGError
from util.processes.environment import check_group, check_interfaces, in_group, note_tasks
from util.processes.explain import explain
from util.processes.stopping import Preempted, working_alone

TIMEOUT = datetime.timedelta(minutes=30)  # of a collective that all enter at about the same time
LONG = datetime.timedelta(days=7)  # of waiting for what process 0 does alone
# Whether a thread watches each of NCCL's exchanges, which no CUDA graph may hold: "0" if not
WATCHED = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
Value = TypeVar("Value")


def start(device: str = "auto", *, captured: bool = False) -> torch.device:
    """Join the process group if torchrun started several processes; return this process's device.

    Args:
        device: "auto" (a GPU where there is one), "cuda" or "cpu".
        captured: what GPUs exchange may be part of a CUDA graph (train.cuda_graph: true).

    Raises:
        ECGError: there is no GPU for this process.
        ConfigError: the other processes cannot be found as the environment says.
    """
    check_group()
    note_tasks()
    if device == "cuda" and not torch.cuda.is_available():
        raise ECGError("device is cuda but PyTorch sees no GPU; use --gpus cpu (or device: cpu)")
    use_gpu = torch.cuda.is_available() and device != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", 0)) if in_group() else 0
    if use_gpu and in_group() and "LOCAL_RANK" not in os.environ and torch.cuda.device_count() > 1:
        raise ConfigError(
            "LOCAL_RANK is not set, so this process cannot know which of the "
            f"{torch.cuda.device_count()} GPUs is its own; set it to its number on this machine"
        )
    if use_gpu and local_rank >= torch.cuda.device_count():
        raise ECGError(
            f"process {local_rank} of this node has no GPU of its own: PyTorch sees "
            f"{torch.cuda.device_count()}; name fewer with --gpus"
        )
    where = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        if in_group():
            check_interfaces("NCCL_SOCKET_IFNAME")
            if captured:  # NCCL reads it on joining
                os.environ.setdefault(WATCHED, "0")
        torch.cuda.set_device(where)
    else:
        _keep_memory()
    if in_group() and not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if use_gpu else "gloo",
            store=_store(),
            rank=rank(),
            world_size=group()[1],
            timeout=TIMEOUT,
        )
    return where


def _keep_memory() -> None:
    """Have glibc keep memory that was freed.

    Every step takes the same again, and each page that was given back to the system costs a
    fault: filtering crops would take 1.4 times the CPU time.  No number depends on it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        for option, size in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 1 << 30)):
            mallopt(option, size)


@functools.cache
def _store() -> dist.Store:
    """The run's key-value store."""
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        print(f"waiting for {group()[1]} processes at {address}, port {port} ...", file=sys.stderr)
    try:
        return _of_this_attempt(next(rendezvous("env://", timeout=TIMEOUT))[0])
    except dist.DistError as error:
        raise ECGError(
            f"no meeting at MASTER_ADDR {address}, MASTER_PORT {port}: "
            f"{str(error).splitlines()[0]}; is process 0 there, and no other program?"
        ) from None


def _of_this_attempt(store: dist.Store) -> dist.Store:
    """``store`` with a prefix for each start of the processes.

    The launcher keeps its store over restarts: restarted processes would find, and try, the
    addresses of the dead ones (torch 2.13).
    """
    attempt = (
        os.environ.get("TORCHELASTIC_RUN_ID", ""),
        os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )
    return dist.PrefixStore(" ".join(attempt), store)


@functools.cache
def _long_group() -> dist.ProcessGroup:
    """All processes, with a time limit for long waits."""
    return dist.new_group(backend="gloo", timeout=LONG)


def stop() -> None:
    """Leave the process group, as all others must."""
    if dist.is_initialized():
        dist.destroy_process_group()
    _long_group.cache_clear()
    _store.cache_clear()


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, torchrun's before it has joined; 0 writes files."""
    if dist.is_initialized():
        return dist.get_rank()
    return group()[0] if in_group() else 0


def is_main() -> bool:
    """Return whether this is process 0."""
    return rank() == 0


def lost_contact(error: BaseException | None) -> bool:
    """Return whether a collective failed because another process ended or cannot be reached."""
    # gloo, which serves the CPU, has no error type; its messages begin with the place in its
    # source.
    of_gloo = isinstance(error, RuntimeError) and "/gloo/" in str(error)
    return of_gloo or isinstance(error, dist.DistError)


def first_to_say(text: str) -> bool:
    """Return whether this process is the first to say ``text``.

    Where all fail alike, one prints the sentence; none waits for another.
    """
    try:
        store = _store() if dist.is_initialized() else _store_before_joining()
        return store.add(f"said {text}", 1) == 1
    except (RuntimeError, KeyError, ValueError):
        # The process that kept the store has ended, and it has said why.
        return not dist.is_initialized() or is_main()


def _store_before_joining() -> dist.Store:
    """The run's key-value store, asked for two seconds at most."""
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=2),
    )
    return _of_this_attempt(store)


def barrier() -> None:
    """Wait for all processes, however long that takes."""
    if world() > 1:
        _wait(dist.barrier(group=_long_group(), async_op=True))


def _wait(work: dist.Work) -> None:
    """Wait for a collective in Python, where signals are noticed.

    Raises:
        Preempted: the process was asked to stop; the collective is complete all the same.
    """
    stopped = None
    while True:
        try:
            while not work.is_completed():
                time.sleep(0.002)
            break
        except Preempted as request:
            # Process 0 was asked as well and comes to this collective; if it does not,
            # end_when_stuck ends this process.
            stopped = request
    work.wait()
    if stopped:
        raise stopped


def averaging(model: torch.nn.Module) -> DistributedDataParallel:
    """Return ``model`` with its gradients averaged over processes; each keeps its own buffers."""
    known = inspect.signature(DistributedDataParallel).parameters
    # until torch 2.12 it is broadcast_buffers
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {buffers: False}
    # Gradients as views of the buckets that are sent: saves a copy, and its memory.
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


def total(tensor: torch.Tensor) -> torch.Tensor:
    """Sum ``tensor`` over processes, in place, and return it."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool) -> bool:
    """Return on every process whether ``flag`` is true on one.

    It costs a small message between CPUs and no synchronisation with a GPU.
    """
    return bool(total(torch.tensor(int(flag))))


def on_main(function: Callable[[], Value]) -> Value:
    """Call ``function()`` on process 0 while the others wait; return its value on all.

    The others wait however long it takes.  The value is of plain types and tensors.

    Raises:
        ECGError: on every process, where ``function`` raised one, or the system refused a file.
        Preempted: on every process, where process 0 was asked to stop.
    """
    if world() == 1:
        return function()
    value: Value | None = None
    failure: ECGError | Preempted | None = None
    if is_main():
        try:
            with working_alone():
                value = function()
        except (ECGError, Preempted) as error:
            failure = error
        except OSError as error:
            failure = ECGError(explain(error))
    outcome = broadcast_object(
        {
            "value": value,
            "failed": failure is not None,
            "text": str(failure),
            "stopped": isinstance(failure, Preempted),
        }
    )
    if outcome["failed"]:
        raise failure or (Preempted if outcome["stopped"] else ECGError)(outcome["text"])
    return outcome["value"]


def same_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Copy process 0's tensors to all, in place.

    BatchNorm statistics, for one, differ between processes in training, and a checkpoint keeps
    those of process 0: what is evaluated must be what is saved.
    """
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def gather_objects(value: Any) -> list[Any]:
    """Return every process's ``value`` on all, in rank order; see ``broadcast_object``."""
    return [broadcast_object(value, source) for source in range(world())]


def broadcast_object(value: Any, source: int = 0) -> Any:
    """Return the ``value`` of process ``source`` on all, however long the others wait for it.

    It is of plain types and tensors, nested as in a checkpoint; tensors arrive on the CPU.  It
    travels as what torch.save writes and is read as a checkpoint is: nothing else is accepted.
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
    """Return x of every process, (world, *x.shape), differentiably.

        rank 0: x0          rank 0: x0 x1
        rank 1: x1   ->     rank 1: x0 x1

    Each x gets the gradient of every process's use of it, summed.  With DDP's mean of gradients,
    a loss of all processes' samples so has the gradients of one process with all samples.
    """
    return _Gather.apply(x) if dist.is_initialized() else x[None]


def gather_plain(x: torch.Tensor) -> torch.Tensor:
    """Return x of every process, (world, *x.shape), without gradients."""
    if not dist.is_initialized():
        return x[None]
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


class _Gather(torch.autograd.Function):
    """The work of ``gather`` on several processes."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return gather_plain(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return total(gradient.clone(memory_format=torch.contiguous_format))[rank()]

"""The only place that knows how many processes there are.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process.  CPU tensors travel by gloo, GPU
tensors by nccl.
"""
import datetime
import io
import json
import os

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from util.errors import ECGError
from util.stop import Preempted


def start(device: str = "auto") -> torch.device:
    """Join the process group if torchrun started several processes; returns this process's device.

    Raises:
        ECGError: ``device`` is cuda but there is no GPU, or fewer GPUs than processes on this node.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ECGError("device is cuda but PyTorch sees no GPU; use --gpus cpu (or device: cpu)")
    use_gpu = torch.cuda.is_available() and device != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if use_gpu and local_rank >= torch.cuda.device_count():
        raise ECGError(f"process {local_rank} of this node has no GPU of its own: PyTorch sees "
                       f"{torch.cuda.device_count()}; name fewer with --gpus")
    where = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(where)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        _join("cpu:gloo,cuda:nccl" if use_gpu else "gloo", datetime.timedelta(minutes=30))
    return where


def _join(backend, timeout):
    # torchrun keeps its store over restarts: without a prefix of their own, restarted processes would find, and try,
    # the addresses of the dead ones (torch 2.13).
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 writes files.  torchrun's, before the process has joined the group."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ["RANK"]) if in_group() else 0


def is_main() -> bool:
    """True on the one process that writes files."""
    return rank() == 0


def in_group() -> bool:
    """True if torchrun started several processes, be they joined yet or not."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def barrier() -> None:
    """Wait for all processes."""
    if world() > 1:
        dist.barrier()


def total(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of ``tensor`` over processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool) -> bool:
    """True on every process if ``flag`` is true on one.  Costs a small CPU message, no GPU synchronisation."""
    if world() == 1:
        return flag
    return bool(total(torch.tensor(int(flag))).item())


def on_main(function) -> None:
    """Call ``function()`` on process 0 while the others wait for it.

    Raises:
        ECGError: on every process, where ``function`` raised one; Preempted, where it was asked to stop.
    """
    failure = None
    if is_main():
        try:
            function()
        except ECGError as error:
            failure = error
    failed, stopped = total(torch.tensor([failure is not None, isinstance(failure, Preempted)]).int()).tolist()
    if stopped:
        raise failure or Preempted("process 0 was asked to stop")
    if failed:
        raise failure or ECGError("process 0 could not go on; its message says why")


def same_buffers(module: torch.nn.Module) -> None:
    """Hand process 0's buffers to all.  BatchNorm statistics are each process's own while it trains, and a checkpoint
    keeps those of process 0: what is evaluated must be what is saved."""
    if world() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def gather_objects(value) -> list:
    """``value`` (plain types) of every process, in rank order.  Travels as tensors of JSON text, not as pickle."""
    if world() == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = torch.zeros(world(), dtype=torch.int64)
    sizes[rank()] = len(text)
    total(sizes)
    padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
    padded[:len(text)] = text
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return [json.loads(bytes(part[:size].tolist()).decode()) for part, size in zip(parts, sizes.tolist())]


def broadcast_object(value):
    """Process 0's ``value`` (plain types and tensors, nested as in a checkpoint) on every process, tensors on the CPU.

    Travels as what torch.save writes and is read as a checkpoint is: nothing but tensors and plain types is accepted.
    """
    if world() == 1:
        return value
    content = io.BytesIO()
    if is_main():
        torch.save(value, content)
    size = torch.tensor(content.tell())
    dist.broadcast(size, 0)
    received = torch.frombuffer(content.getbuffer(), dtype=torch.uint8) if is_main() else \
        torch.empty(size, dtype=torch.uint8)
    dist.broadcast(received, 0)
    return value if is_main() else torch.load(io.BytesIO(received.numpy()), map_location="cpu", weights_only=True)


def from_main(function):
    """What ``function()`` returns on process 0, on every process; nobody else calls it.

    Raises:
        ECGError: see ``on_main``.
    """
    found = []
    on_main(lambda: found.append(function()))
    return broadcast_object(found[0] if found else None)

"""The only place that knows how many processes there are.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process.  CPU tensors travel by gloo, GPU
tensors by nccl.
"""
import datetime
import os

import torch
import torch.distributed as dist

from util.errors import ECGError


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
        dist.init_process_group("cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout=datetime.timedelta(minutes=30))
    return where


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """True on the one process that writes files."""
    return rank() == 0


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


def gather_objects(value) -> list:
    """``value`` (plain types) of every process, in rank order.  Travels as tensors of JSON text, not as pickle."""
    import json
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

"""How fast a run is: samples a second, and the share of what this machine can multiply (MFU, model
FLOPs utilisation: Chowdhery et al., PaLM, 2022, appendix B).

Products and convolutions of one forward and backward pass are counted in the run's first step;
the machine's rate is measured once and kept in the user's cache folder.  Nothing here waits for a
GPU within a step.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from util.console import note
from util.processes import collectives

CACHE = "ECG_CACHE"  # environment variable: where this is kept instead of ~/.cache/ecg
SIZE = {"cuda": 8192, "cpu": 1024}  # of the square matrices that are multiplied
ROUNDS = 5  # the fastest counts: other work on the machine only slows it
SPEEDS = ("samples_per_second", "mfu")  # what ``Speed.shown`` gives
UNCOUNTED = ("rnn", "lstm", "gru", "attention")  # in names of kernels that hide products


def cache_folder() -> Path:
    """Return the folder of what this user's machine measures and compiles once."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(base) / "ecg")


# ============ FLOPs ============
@functools.cache
def _formulas() -> dict[Any, Any]:
    """PyTorch's, and those of the CPU's fused attention, which it lacks."""
    aten, known = torch.ops.aten, dict(flop_registry)
    for name in ("", "_backward"):
        cpu = getattr(aten, f"_scaled_dot_product_flash_attention_for_cpu{name}")
        known[cpu] = known[getattr(aten, f"_scaled_dot_product_flash_attention{name}")]
    return known


class FlopCounter(TorchDispatchMode):
    """Counts products and convolutions, forward and backward; Fourier transforms and everything
    by element count nothing.

    Attributes:
        total: FLOPs so far, two for each multiplication with its addition.
        unknown: names of kernels whose products cannot be counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total, self.unknown = 0, set[str]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        packet = function._overloadpacket
        if packet in _formulas():
            self.total += _formulas()[packet](*args, **(kwargs or {}), out_val=out)
        elif any(word in str(packet) for word in UNCOUNTED):
            self.unknown.add(str(packet))
        return out


# ============ the machine's rate ============
def product_rate(device: torch.device, dtype: torch.dtype | None) -> float:
    """Return the FLOP/s of a large matrix product, measured or as kept; every process must ask.

    Args:
        device: where it is computed.
        dtype: of autocast, None for float32 at the present precision of products.
    """
    return collectives.on_main(lambda: _kept(device, dtype or torch.float32)[1])


def forget_rate(device: torch.device, dtype: torch.dtype | None) -> None:
    """Have the rate measured anew by the next run: something was faster."""
    with contextlib.suppress(OSError):
        _place(device, dtype or torch.float32).unlink(missing_ok=True)


def _kept(device: torch.device, dtype: torch.dtype) -> tuple[Path, float]:
    path = _place(device, dtype)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return path, float(json.loads(path.read_text())["flop_per_second"])
    rate = _measured(device, dtype)
    machine = _machine(device, dtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "flop_per_second": rate}))
        kept = f"kept in {path}"
    except OSError as error:
        kept = f"not kept: {path.parent}: {error.strerror}"
    note(f"products of {machine}: {rate / 1e12:.3g} TFLOP/s, measured once ({kept})")
    return path, rate


def _place(device: torch.device, dtype: torch.dtype) -> Path:
    name = hashlib.sha256(_machine(device, dtype).encode()).hexdigest()[:16]
    return cache_folder() / f"product_rate-{name}.json"


def _machine(device: torch.device, dtype: torch.dtype) -> str:
    """What the rate depends on, in words."""
    precision = str(dtype)[6:]
    if dtype is torch.float32:
        precision += f" ({torch.get_float32_matmul_precision()})"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}, torch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread(s), {precision}, torch {torch.__version__}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{os.uname().machine} on {os.uname().nodename}"


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    n = 256 if device.type == "cpu" else SIZE["cuda"]
    seconds = _product_seconds(n, device, dtype)
    while n < SIZE[device.type] and seconds < 0.02:  # fp16 on a CPU is slow enough at 256
        n *= 2
        seconds = _product_seconds(n, device, dtype)
    return 2 * n**3 / seconds


def _product_seconds(n: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(2))
    wait, best = torch.cuda.synchronize if device.type == "cuda" else lambda: None, math.inf
    for _ in range(ROUNDS):
        wait()
        began = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - began)
    return best


# ============ a run's speed ============
class Speed:
    """Samples a second since ``start``, and the share of the product rate that they are.

    Args:
        device: of the run.
        dtype: of its autocast, or None.
        per_step: samples of a step, over all processes.
        compiled: whether the model is, which nothing can look into.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype | None,
        per_step: int,
        *,
        compiled: bool = False,
    ):
        self.device, self.dtype, self.per_step = device, dtype, per_step
        self.compiled = compiled
        self.limit = product_rate(device, dtype) * collectives.world()
        self.flop: float | None = None  # a sample; None: not counted yet, or not to be known
        self.forget()

    @contextlib.contextmanager
    def _counting(self, samples: int) -> Iterator[None]:
        # Dynamo would give up code that it first meets in a mode; only where it is loaded anyway
        stance = (
            torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()
        )
        with stance, FlopCounter() as counter:
            yield
        self.counted = True
        if counter.unknown:
            note(f"note: no MFU: products of {', '.join(sorted(counter.unknown))} are not counted")
        elif counter.total:
            self.flop = counter.total / samples

    def counting(self, samples: int) -> contextlib.AbstractContextManager:
        """Return a context for the passes of a batch, which counts the first one's FLOPs."""
        return contextlib.nullcontext() if self.counted else self._counting(samples)

    def forget(self) -> None:
        """Count anew: parameters have been frozen or thawed."""
        self.flop, self.counted = None, False

    def start(self, step: int) -> None:
        """Begin at this step of an epoch."""
        self.began = (step, time.perf_counter())

    def shown(self, step: int) -> dict[str, float]:
        """Return "samples_per_second" since the start and, where it is known, "mfu"; nothing
        before the first step.  On a GPU, wait for the steps before you ask.
        """
        first, began = self.began
        if step == first:
            return {}
        rate = self.per_step * (step - first) / (time.perf_counter() - began)
        found = {"samples_per_second": rate}
        share = self.flop and rate * self.flop / self.limit
        if share and share <= 1:
            found["mfu"] = share
        elif share:  # the machine was busy when it was measured
            forget_rate(self.device, self.dtype)
        return found

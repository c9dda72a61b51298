"""CUDA graphs as a CPU has them: fixed tensors and one function, whose work is compared, operation
by operation, with that of its first replay.

A real graph repeats kernels on the same addresses with the same numbers.  Here the function runs
again, and whatever would not have been the same is ``Changed``.
"""

import contextlib
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Changed(BaseException):
    """A number of the host's, an address or a shape is another than in the first replay.  No
    Exception, so that no step takes another path instead.
    """


class Trace(TorchDispatchMode):
    """Operations and their arguments: host's numbers by value, tensors by where they come from."""

    def __init__(self):
        super().__init__()
        self.lines, self.made, self.kept = [], {}, []

    def described(self, value):
        if isinstance(value, torch.ScriptObject):  # a process group: made once, as its tensors
            return ("object", str(value._type()))
        if not isinstance(value, torch.Tensor):
            return ("number", value)
        place = value.untyped_storage().data_ptr()
        form = (tuple(value.shape), value.stride(), value.storage_offset(), value.dtype)
        if place in self.made:
            return ("made by", self.made[place], *form)
        # A number of C++ code arrives as a tensor: its value tells whether it is the same.
        number = value.item() if value.ndim == 0 else None
        return ("tensor at", place, *form, number)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "profiler":  # PyTorch's own marks
            return function(*args, **(kwargs or {}))
        given = tree_flatten((args, kwargs or {}))[0]
        places = {x.untyped_storage().data_ptr() for x in given if isinstance(x, torch.Tensor)}
        self.lines.append((str(function), [self.described(value) for value in given]))
        out = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                self.kept.append(tensor)  # so that no other one gets its address
                place = tensor.untyped_storage().data_ptr()
                if place not in places:
                    self.made.setdefault(place, len(self.lines))
        return out


def same(a, b):
    """Whether two arguments are the same to a graph."""
    if a[0] == b[0] == "tensor at":
        return a[2:-1] == b[2:-1] and (a[1] == b[1] or a[-1] is not None and a[-1] == b[-1])
    return a == b


def compare(first, now):
    """Raise ``Changed`` unless two traces are the same."""
    for number, (a, b) in enumerate(zip(first, now)):
        if a[0] != b[0] or len(a[1]) != len(b[1]) or not all(map(same, a[1], b[1])):
            raise Changed(f"operation {number}: {a} in the first replay, now {b}")
    if len(first) != len(now):
        raise Changed(f"{len(first)} operations in the first replay, now {len(now)}")


class StandIn:
    """In place of ``CudaRecorder``; counts replays."""

    rates = torch.float64  # the host's, so that every bit is that of the plain step
    replays = 0

    def __init__(self, device):
        self.clock = time.perf_counter

    def warming_up(self):
        return contextlib.nullcontext()

    rehearsing = warming_up

    def now(self):
        return self.clock()

    def record(self, function):
        out, lines = [], []

        def replay():
            StandIn.replays += 1
            with Trace() as trace:
                found = function()
            if not out:
                out.extend(found)
                lines.extend(trace.lines)
                return out
            compare(lines, trace.lines)
            for tensor, value in zip(out, found, strict=True):
                tensor.copy_(value)
            return out

        return replay

"""Slow copies of modules (target, teacher) that follow by an exponential moving average of their
parameters.

Only parameters are averaged.  Running statistics of BatchNorm are the copy's own: it sees its
views in training mode and so gathers the statistics of its own activations, as in BYOL's and
DINO's published code.  Everything else in its buffers (the input's standardisation) is fixed data
and stays equal from the start.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Scalar = TypeVar("Scalar", float, torch.Tensor)  # 0-dim


def slow_copy(module: ModuleT) -> ModuleT:
    """Return a copy of the module that takes no gradients."""
    return copy.deepcopy(module).requires_grad_(False)


def momentum_at(progress: Scalar, start: float, end: float) -> Scalar:
    """Return the momentum on a half cosine from ``start`` to ``end``; constant if these are equal.

    Grill et al., BYOL, 2020, section 3.3: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2.

    Args:
        progress: where the run stands, in [0, 1]; a number, or a 0-dim tensor, for which compiled
            code is not recompiled.
    """
    height: Scalar
    if isinstance(progress, torch.Tensor):
        height = (math.pi * progress.clamp(0.0, 1.0)).cos()
    else:
        height = math.cos(math.pi * min(max(progress, 0.0), 1.0))
    return end - (end - start) * (height + 1) / 2


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Set slow = momentum * slow + (1 - momentum) * fast, over all parameters at once."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - momentum)

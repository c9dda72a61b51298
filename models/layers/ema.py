"""Slow copies of modules (target, teacher) that follow by an exponential moving average of their
parameters.

Only parameters are averaged.  Running statistics of BatchNorm are the copy's own: it sees its
views in training mode and so gathers the statistics of its own activations, as in BYOL's and
DINO's published code.  Everything else in its buffers (the input's standardisation) is fixed data
and stays equal from the start.
"""

import copy
import math

import torch
from torch import nn


def slow_copy(module: nn.Module) -> nn.Module:
    """A copy of the module, itself without gradients."""
    return copy.deepcopy(module).requires_grad_(False)


def momentum_at(progress, start: float, end: float):
    """Momentum on a half cosine from ``start`` (progress 0) to ``end`` (progress 1); equal
    values: constant.

    ``progress`` is a number, or a 0-dim tensor, which compiled code does not compile anew for; so
    is the result.

    Grill et al., BYOL, 2020, section 3.3: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2.
    """
    if isinstance(progress, torch.Tensor):
        height = (math.pi * progress.clamp(0.0, 1.0)).cos()
    else:
        height = math.cos(math.pi * min(max(progress, 0.0), 1.0))
    return end - (end - start) * (height + 1) / 2


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow = momentum * slow + (1 - momentum) * fast, over all parameters at once."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - momentum)

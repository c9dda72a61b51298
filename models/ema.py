"""Slow copies of modules (target, teacher) that follow by an exponential moving average of their parameters.

Only parameters are averaged.  Running statistics of BatchNorm are the copy's own: it sees its views in training mode
and so gathers the statistics of its own activations, as in BYOL's and DINO's published code.  Everything else in its
buffers (the input's standardisation) is fixed data and stays equal from the start.
"""
import copy
import math

import torch
from torch import nn


def slow_copy(module: nn.Module) -> nn.Module:
    """A copy of the module, itself without gradients."""
    return copy.deepcopy(module).requires_grad_(False)


def momentum_at(progress: float, start: float, end: float) -> float:
    """Momentum on a half cosine from ``start`` (progress 0) to ``end`` (progress 1); equal values: constant.

    Grill et al., BYOL, 2020, section 3.3: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2.
    """
    return end - (end - start) * (math.cos(math.pi * min(max(progress, 0.0), 1.0)) + 1) / 2


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow = momentum * slow + (1 - momentum) * fast, over all parameters at once."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - momentum)

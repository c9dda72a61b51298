"""An encoder of 12 leads that is small enough to reason about, and batches to feed it."""

import torch
from torch import nn

from util.contract.encoder import Encoder
from util.contract.registry import register
from util.keyed_random import KeyedRandom
from util.signals.standardize import LeadStandardize


class TinyEncoder(Encoder):
    """(batch, leads, time) of any length, or (batch, leads, frequencies, frames), -> (batch,
    width).
    """

    def __init__(self, width, norm):
        super().__init__()
        self.width = width
        self.conv = nn.Conv1d(12, 8, 5)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.linear = nn.Linear(8, width)
        self.head = nn.Identity()
        self.standardize = LeadStandardize(12)
        self.calls = []  # shapes seen, call by call

    def standardizers(self):
        return [(self.standardize, lambda x: x)]

    def forward_features(self, x):
        self.calls.append(tuple(x.shape))
        x = self.standardize(x.flatten(2) if x.ndim == 4 else x)
        return self.linear(self.norm(self.conv(x)).relu().amax(2))


@register
def tiny_encoder(num_classes=None, width=16, norm=False):
    """For tests."""
    assert num_classes is None
    return TinyEncoder(width, norm)


class Plain(Encoder):
    """The smallest encoder: compiled in no time."""

    def __init__(self, width=8, num_classes=None):
        super().__init__()
        self.width = width
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        self.conv, self.norm = nn.Conv1d(12, width, 5), nn.BatchNorm1d(width)

    def forward_features(self, series):
        return self.norm(self.conv(series)).relu().mean(2)


@register
def plain_encoder(num_classes=None):
    """For tests."""
    return Plain(num_classes=num_classes)


def tiny_batch(rows=slice(None), samples=16, epoch=0.0, progress=0.0, seed=0):
    """Those rows of a batch of ``samples`` crops (12, 250)."""
    signal = torch.randn(samples, 12, 250, generator=torch.Generator().manual_seed(seed))[rows]
    keys = torch.arange(samples)[rows] + 1000 * seed
    return {
        "signal": signal,
        "key": keys,
        "random": KeyedRandom(keys),
        "epoch": epoch,
        "progress": progress,
    }


def run_step(method, batch, runner=None):
    """What a method gives for a batch, as the engine asks for it; ``runner``: the method wrapped
    in DistributedDataParallel, or compiled.
    """
    return (runner or method)(batch, method.draw(batch))


def gradients(module):
    """Copies of all gradients, by name; parameters without one are left out."""
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_every_parameter_learns(method):
    """Each parameter with requires_grad gets a gradient, and no tensor is known by two names."""
    idle = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle, f"no gradient: {idle}"
    taught = [
        name for name, p in method.named_parameters() if not p.requires_grad and p.grad is not None
    ]
    assert not taught, f"gradient, though slow: {taught}"
    state = method.state_dict(keep_vars=True)
    places = [tensor.data_ptr() for tensor in state.values() if tensor.numel()]
    assert len(set(places)) == len(places), "a tensor is registered twice"

"""What the engine asks of a self-supervised method, and the batches that it hands over."""

from typing import TypedDict

import torch
from torch import nn

from util.contract.encoder import Encoder
from util.keyed_random import KeyedRandom


class Batch(TypedDict, total=False):
    """What a training step hands to a model.

    signal: float32 (batch, leads, time) in mV, after the device transforms; random: the samples'
    own random numbers; record: int64 (batch,), rows of the store; label: float32 (batch,
    classes), NaN where unknown, or int64 (batch,), in supervised jobs; epoch: position of the run
    in epochs; progress: the same as a share of the run, in [0, 1]; both float64 scalars on the
    device, so that compiled code need not be compiled anew at every step.
    """

    signal: torch.Tensor
    random: KeyedRandom
    record: torch.Tensor
    label: torch.Tensor
    epoch: torch.Tensor
    progress: torch.Tensor


class Method(nn.Module):
    """A self-supervised method around an ``encoder``.  A subclass sets ``encoder`` and writes
    ``forward``; what it draws comes from ``batch["random"]`` alone.
    """

    encoder: Encoder

    def prepare(self, batch: Batch) -> Batch:
        """The batch with what ``forward`` draws (masks, views) in it.  The engine calls it
        outside of what is compiled: Inductor cannot print the wrapping 64-bit integers of
        ``KeyedRandom``.  A prepared one is returned.
        """
        return batch

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """{"loss": scalar, ...}; every scalar is logged.  Whoever calls it need not have called
        ``prepare``.
        """
        raise NotImplementedError

    @property
    def exports(self) -> dict[str, Encoder]:
        """Further encoders worth keeping, by name, beside ``encoder``."""
        return {}

    def after_step(self, progress) -> None:
        """Called after every step of the optimizer, for slow teachers; progress of the run in [0,
        1].
        """

    def fit_statistics(self, batches) -> None:
        """Fit the input's standardisation before training starts; arguments as for an encoder."""
        self.encoder.fit_statistics(batches)

    def reconstruct(self, batch: Batch):
        """For figures: (signal, reconstruction, mask), each (batch, leads, time); None where
        nothing is rebuilt.
        """
        return None

"""What the engine asks of a self-supervised method, and the batches that it hands over."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import torch
from torch import nn

from util.contract.encoder import Encoder
from util.keyed_random import KeyedRandom


class Batch(TypedDict, total=False):
    """What a training step hands to a model.

    Attributes:
        signal: float32 (batch, leads, time) in mV, after the device transforms.
        random: the samples' own random numbers.
        record: int64 (batch,), rows of the store.
        label: in supervised jobs, float32 (batch, classes) with NaN where unknown, or int64
            (batch,).
        epoch: where the run stands, in epochs; a float64 scalar on the device, so that compiled
            code is not recompiled at every step.
        progress: the same as a share of the run, in [0, 1].
    """

    signal: torch.Tensor
    random: KeyedRandom
    record: torch.Tensor
    label: torch.Tensor
    epoch: torch.Tensor
    progress: torch.Tensor


class Method(nn.Module):
    """A self-supervised method: a batch to a loss.

    A subclass sets ``encoder`` and writes ``forward``, and ``draw`` if it needs random numbers.
    A step is ``out = method(batch, method.draw(batch))``.

    Attributes:
        encoder: what is trained.
    """

    encoder: Encoder

    def draw(self, batch: Batch) -> dict[str, Any]:
        """Return whatever is random for a batch (masks, views, negatives), by name, drawn from
        ``batch["random"]`` alone.

        It stays outside of what is compiled: Inductor cannot print the wrapping 64-bit integers
        of ``KeyedRandom``.
        """
        return {}

    def forward(self, batch: Batch, drawn: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return {"loss": scalar, ...} for a batch and what ``draw`` gave for it; every scalar is
        logged.
        """
        raise NotImplementedError

    @property
    def handed_on(self) -> Encoder:
        """Return what ``encoder.pth`` holds and the probe of pre-training looks at: ``encoder``,
        or a slow copy of it.
        """
        return self.encoder

    @property
    def exports(self) -> dict[str, Encoder]:
        """Return further encoders worth keeping beside ``handed_on``, by name."""
        return {}

    @property
    def frozen_parts(self) -> list[str]:
        """Return the names of the parts that are to stay as they are, for people."""
        return []

    def frozen_tensors(self) -> dict[str, torch.Tensor]:
        """Return the parameters and buffers that training must not change, by name."""
        return {}

    def remarks(self, samples: int) -> list[str]:
        """Return what a person should know before it is trained on crops of so many samples."""
        return []

    def before_step(self, epoch: float) -> None:
        """Change the gradients of a step before the optimizer takes it: those of all processes
        and micro-batches together.

        Args:
            epoch: where the run stands, in epochs; 2.5 is the middle of the third one.
        """

    def after_step(self, progress: float) -> None:
        """Update what follows the model slowly, such as a teacher, after a step of the optimizer.

        Args:
            progress: where the run stands, in [0, 1].
        """

    def fit_statistics(self, batches: Iterable[torch.Tensor]) -> None:
        """Fit the input's standardisation before training starts; see the encoder's."""
        self.encoder.fit_statistics(batches)

    def reconstruct(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Return signal, reconstruction and mask, each (batch, leads, time), for figures; None
        where nothing is rebuilt.
        """
        return None

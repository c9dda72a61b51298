"""What predictive methods (CPC) rely on in an encoder."""

import torch

from util.contract.encoder import Encoder


class SequenceEncoder(Encoder):
    """An encoder that sees a crop as a sequence of steps and sums up what came before each.

    Attributes:
        step_width: width of a step and of a context.
    """

    step_width: int

    def step_count(self, samples: int) -> int:
        """Return the number of steps in a crop of this many samples."""
        raise NotImplementedError

    def steps(self, series: torch.Tensor) -> torch.Tensor:
        """Return the steps (batch, step_count(time), step_width) of crops (batch, leads, time) in
        mV, each seen by itself.
        """
        raise NotImplementedError

    @property
    def token_width(self) -> int:
        return self.step_width

    def tokens(self, series: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the contexts as tokens; no step can be hidden from those after it."""
        return (
            super().tokens(series, keep) if keep is not None else self.contexts(self.steps(series))
        )

    def contexts(self, steps: torch.Tensor) -> torch.Tensor:
        """Return what is known at each step from all steps up to it, the same shape."""
        raise NotImplementedError

"""Per-lead standardisation that travels with the weights.

Statistics are those of the training folds only (the published scripts used all ten folds, test
records included). They are buffers, so a checkpoint carries the scale that its weights were
trained on.
"""

import torch
from torch import nn

from util.errors import ECGError

# a lead whose standard deviation is below this (one nanovolt) is flat: dividing would only scale
# up noise
FLAT = 1e-6


class RecordMoments:
    """Mean over records of each record's own mean and standard deviation, per lead, in float64.

    The published definition, and a robust one: a single artefact of 20 mV in 400 records moves
    the mean of the records' standard deviations by a quarter, but the standard deviation of all
    samples together fivefold.
    """

    def __init__(self) -> None:
        self.records = 0
        self.means, self.stds = (
            torch.zeros((), dtype=torch.double),
            torch.zeros((), dtype=torch.double),
        )

    def update(self, x: torch.Tensor) -> None:
        """Take in one crop each of several records, (batch, leads, ...)."""
        std, mean = torch.std_mean(x.detach().double().flatten(2), dim=2, correction=0)
        self.records += len(x)
        self.means, self.stds = self.means + mean.sum(0), self.stds + std.sum(0)


class LeadStandardize(nn.Module):
    """(x - mean) / std of (batch, num_leads, ...), with one mean and std a lead.

    For signals in mV or spectrograms; identity until fitted.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, num_leads: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_leads))
        self.register_buffer("std", torch.ones(num_leads))

    @property
    def fitted(self) -> bool:
        """Return whether these are statistics of data, fitted here or loaded with weights."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def fit(self, moments: RecordMoments) -> None:
        """Standardise by these moments from now on.  A flat lead is centred and left unscaled."""
        if moments.records == 0:
            raise ECGError(
                "standardisation: no training crops were given; check the store and its folds"
            )
        mean, std = moments.means / moments.records, moments.stds / moments.records
        if mean.shape != self.mean.shape:
            raise ECGError(
                f"standardisation: crops of {len(mean)} leads for a model of {len(self.mean)}; "
                "make model.num_leads and dataset.lead agree"
            )
        if not (mean.isfinite() & std.isfinite()).all():
            raise ECGError(
                "standardisation: the training crops hold values that are not finite; rebuild "
                "the store"
            )
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < FLAT, 1.0, std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x (batch, leads, ...) standardised."""
        if x.shape[1] != len(self.mean):  # one lead would broadcast to twelve in silence
            raise ValueError(
                f"the model has {len(self.mean)} leads, the batch {tuple(x.shape)} has "
                f"{x.shape[1]}; make model.num_leads and dataset.lead agree"
            )
        per_lead = (-1,) + (1,) * (x.ndim - 2)
        return (x - self.mean.view(per_lead)) / self.std.view(per_lead)

"""Per-lead standardisation that travels with the weights.

Statistics are those of the training folds only (the published scripts used all ten folds, test records included).
They are buffers, so a checkpoint carries the scale that its weights were trained on.
"""
import torch
from torch import nn

from util.errors import ECGError

FLAT = 1e-6  # a lead whose standard deviation is below this (one nanovolt) is flat: dividing would only scale up noise


class Moments:
    """Exact mean and variance of every lead over a stream of batches, in float64.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983), which loses nothing to cancellation
    where a large offset hides a small variance.
    """

    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0  # squares: summed squared distances to the mean

    def update(self, x: torch.Tensor) -> None:
        """Take in x (batch, leads, ...); everything but the leads is averaged over."""
        x = x.detach().double().transpose(0, 1).flatten(1)   # (leads, values)
        count = self.count + x.shape[1]
        mean = x.mean(1)
        shift = mean - self.mean
        self.squares = self.squares + (x - mean[:, None]).square().sum(1) + shift**2 * self.count * x.shape[1] / count
        self.mean = self.mean + shift * (x.shape[1] / count)
        self.count = count

    def std(self) -> torch.Tensor:
        """Population standard deviation, (leads,)."""
        return (self.squares / self.count).sqrt()


class LeadStandardize(nn.Module):
    """(x - mean) / std with one mean and one std a lead, saved in the state dict; identity until fitted.

    Args:
        num_leads: rows of the inputs, (batch, num_leads, ...): signals in mV or spectrograms.
    """

    def __init__(self, num_leads: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_leads))
        self.register_buffer("std", torch.ones(num_leads))

    def adopt(self, moments: Moments) -> None:
        """Standardise by these moments from now on.  A flat lead is centred and left unscaled.

        Raises:
            ECGError: no batches were seen, or they had another number of leads or values that are not finite.
        """
        if moments.count == 0:
            raise ECGError("standardisation: no training crops were given; check the store and its folds")
        mean, std = moments.mean, moments.std()
        if mean.shape != self.mean.shape:
            raise ECGError(f"standardisation: crops of {len(mean)} leads for a model of {len(self.mean)}; "
                           "make model.num_leads and dataset.lead agree")
        if not (mean.isfinite() & std.isfinite()).all():
            raise ECGError("standardisation: the training crops hold values that are not finite; rebuild the store")
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < FLAT, 1.0, std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, leads, ...) -> the same shape."""
        if x.shape[1] != len(self.mean):  # one lead would broadcast to twelve in silence
            raise ValueError(f"the model has {len(self.mean)} leads, the batch {tuple(x.shape)} has {x.shape[1]}; "
                             "make model.num_leads and dataset.lead agree")
        per_lead = (-1,) + (1,) * (x.ndim - 2)
        return (x - self.mean.view(per_lead)) / self.std.view(per_lead)


@torch.no_grad()
def fit_statistics(encoders, batches) -> None:
    """Fit the standardisation of several encoders in one pass over the crops.

    Args:
        encoders: modules with ``standardize`` (LeadStandardize) and ``unstandardized(x)``, which gives its input.
        batches: iterable of float32 (batch, leads, time) in mV, crops of the training folds; read once.

    Raises:
        ECGError: see LeadStandardize.adopt.
    """
    encoders = list(encoders)
    moments = [Moments() for _ in encoders]
    for batch in batches:
        for encoder, total in zip(encoders, moments):
            total.update(encoder.unstandardized(batch.to(encoder.standardize.mean.device)))
    for encoder, total in zip(encoders, moments):
        encoder.standardize.adopt(total)

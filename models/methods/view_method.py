"""What methods that learn from views of a crop share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from util.contract.encoder import Encoder
from util.contract.method import Batch, Method
from util.signals.views import Views


class ViewMethod(Method):
    """A method that learns from ``views`` of its batch."""

    views: Views

    def remarks(self, samples: int) -> list[str]:
        factors = self.views.stretch(samples)
        # half a percent of room: as many samples as one has are rounded
        if factors is None or factors[0] <= 1.005 and factors[1] >= 0.995:
            return []
        return [
            f"no view shows hearts at their own pace: random_resized_crop makes one sample of "
            f"{factors[0]:.2g} to {factors[1]:.2g} samples of a crop of {samples}, and fine-tuning "
            "shows them as they are; give model.views as a list whose length is that of the crop "
            "times a share within ratio"
        ]

    def draw(self, batch: Batch) -> dict[str, Any]:
        """Return "views", a list of tensors (batch, leads, ...)."""
        views = self.views(batch["signal"], batch["random"], input_mean(self.encoder))
        return {"views": views}


def input_mean(encoder: Encoder) -> torch.Tensor | float:
    """Return what an encoder's standardisation makes 0: its mean of each lead (leads,), 0 where
    it has none.
    """
    return next((part.mean for part, _ in encoder.standardizers()), 0.0)


def encode_views(encoder: Encoder, views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return features (view, batch, width) of views, with one call of the encoder for each shape
    among them.
    """
    features: dict[int, torch.Tensor] = {}
    for shape in dict.fromkeys(view.shape for view in views):
        members = [i for i, view in enumerate(views) if view.shape == shape]
        out = encoder.forward_features(torch.cat([views[i] for i in members]))
        features.update(zip(members, out.chunk(len(members))))
    return torch.stack([features[i] for i in range(len(views))])


def encode(encoder: Encoder, views: Sequence[torch.Tensor], *, joint: bool) -> torch.Tensor:
    """Return features (view, batch, width) of views.

    Args:
        joint: all views in one call and one batch of BatchNorm; else one after the other, as in
            Phan et al.
    """
    groups = [views] if joint else [[view] for view in views]
    return torch.cat([encode_views(encoder, group) for group in groups])


def project(head: nn.Module, features: torch.Tensor, *, joint: bool) -> torch.Tensor:
    """Return (view, batch, d), features (view, batch, width) through a head; ``joint`` as in
    ``encode``.
    """
    if joint:
        return head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return torch.stack([head(view) for view in features])

"""What methods that learn from views of a crop share."""

import torch

from util.contract.method import Method
from util.signals.views import Views


class ViewMethod(Method):
    """A method that learns from ``views`` of its batch."""

    views: Views

    def prepare(self, batch):
        """With "views", a list of tensors."""
        if "views" in batch:
            return batch
        return {
            **batch,
            "views": self.views(batch["signal"], batch["random"], input_mean(self.encoder)),
        }


def input_mean(encoder):
    """What an encoder's own standardisation makes 0: its mean of each lead (leads,), 0 where it
    has none.
    """
    return next((part.mean for part, _ in encoder.standardizers()), 0.0)


def encode_views(encoder, views):
    """Features (view, batch, width) of a list of views, one encoder call for each shape among
    them.
    """
    features = {}
    for shape in dict.fromkeys(view.shape for view in views):
        members = [i for i, view in enumerate(views) if view.shape == shape]
        out = encoder.forward_features(torch.cat([views[i] for i in members]))
        features.update(zip(members, out.chunk(len(members))))
    return torch.stack([features[i] for i in range(len(views))])


def encode(encoder, views, joint: bool) -> torch.Tensor:
    """Features (view, batch, width) of a list of views.

    Args:
        joint: all views in one call and one batch of BatchNorm; else one after the other, as in
            Phan et al.
    """
    groups = [views] if joint else [[view] for view in views]
    return torch.cat([encode_views(encoder, group) for group in groups])


def project(head, features, joint: bool) -> torch.Tensor:
    """Features (view, batch, width) through a head -> (view, batch, d); ``joint`` as in
    ``encode``.
    """
    if joint:
        return head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return torch.stack([head(view) for view in features])

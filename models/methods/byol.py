"""BYOL (Grill et al., Bootstrap your own latent, NeurIPS 2020) for any encoder of the registry."""

import torch
from torch.nn import functional as F

from models.layers.ema import follow, momentum_at, slow_copy
from models.layers.heads import embedding_health, mlp
from models.methods.view_method import ViewMethod, encode, project
from util.contract.encoder import Encoder
from util.contract.registry import register
from util.errors import ConfigError
from util.signals.views import Views


def byol_loss(prediction, target):
    """Mean over the batch of 2 - 2 cos(prediction, target), both (batch, d): equation 2 of the
    paper.
    """
    return 2 - 2 * F.cosine_similarity(prediction.float(), target.detach().float(), dim=-1).mean()


class BYOL(ViewMethod):
    """The online network predicts, from one view, the slow target network's projection of the
    other.

    Args:
        encoder: encoder, see ``byol``.
        projector: (batch, encoder.width) -> (batch, d).
        predictor: (batch, d) -> (batch, d).
        views: ``Views`` of two views.
        momentum: (start, end) of the target's momentum over the run.
        joint_views: both views in one pass and one batch of every BatchNorm.
    """

    def __init__(self, encoder, projector, predictor, views, momentum, joint_views):
        super().__init__()
        if views.count != 2:
            raise ConfigError(f"byol needs 2 views, the configuration makes {views.count}")
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.target_encoder, self.target_projector = slow_copy(encoder), slow_copy(projector)
        self.views, self.momentum, self.joint_views = views, momentum, joint_views

    def fit_statistics(self, batches):
        super().fit_statistics(batches)
        self.target_encoder.load_state_dict(self.encoder.state_dict())

    def forward(self, batch):
        """batch {"signal", "random", "progress"} -> {"loss", "embedding_std", "alignment",
        "uniformity", "momentum"}.
        """
        views = self.prepare(batch)["views"]
        projections = self._project(self.encoder, self.projector, views)
        predictions = project(self.predictor, projections, self.joint_views)
        with torch.no_grad():
            targets = self._project(self.target_encoder, self.target_projector, views)
        loss = byol_loss(predictions[0], targets[1]) + byol_loss(predictions[1], targets[0])
        momentum = torch.as_tensor(momentum_at(batch["progress"], *self.momentum)).to(loss.detach())
        return {"loss": loss, **embedding_health(*projections), "momentum": momentum}

    def _project(self, encoder, projector, views):
        """Projections (2, batch, d) of both views."""
        return project(projector, encode(encoder, views, self.joint_views), self.joint_views)

    def after_step(self, progress: float):
        """Move the target towards the online network; progress of the run in [0, 1]."""
        momentum = momentum_at(progress, *self.momentum)
        follow(self.target_encoder, self.encoder, momentum)
        follow(self.target_projector, self.projector, momentum)


@register
def byol(
    encoder: Encoder = "xresnet1d50",
    views: str | list = "contrastive",
    head_width=512,
    head_out=128,
    momentum=0.996,
    momentum_end=1.0,
    joint_views=True,
    fs: float | None = None,
):
    """BYOL around an encoder; ``fs`` is for views with spectrograms.

    Projector width-head_width-head_out and predictor head_out-head_width-head_out, both with
    BatchNorm and ReLU between.  The target's momentum runs on a cosine from ``momentum`` to
    ``momentum_end`` (published: 0.9 and 0.9). ``joint_views`` false: every network sees one view
    after the other, as in the paper's code and Phan et al.
    """
    projector = mlp(encoder.width, head_width, head_out, norm=True)
    predictor = mlp(head_out, head_width, head_out, norm=True)
    return BYOL(
        encoder, projector, predictor, Views(views, fs), (momentum, momentum_end), joint_views
    )

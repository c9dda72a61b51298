"""BYOL (Grill et al., Bootstrap your own latent, NeurIPS 2020) for any encoder of the registry."""
import torch
from torch.nn import functional as F

from models.contract import Encoder, Method
from models.ema import follow, momentum_at, slow_copy
from models.heads import embedding_health, mlp
from models.registry import register
from models.views import Views, encode_views, input_mean
from util.errors import ConfigError


def byol_loss(prediction, target):
    """Mean over the batch of 2 - 2 cos(prediction, target), both (batch, d): equation 2 of the paper."""
    return 2 - 2 * F.cosine_similarity(prediction.float(), target.detach().float(), dim=-1).mean()


class BYOL(Method):
    """The online network predicts, from one view, the slow target network's projection of the other.

    Args:
        encoder: encoder, see ``byol``.
        projector: (batch, encoder.width) -> (batch, d).
        predictor: (batch, d) -> (batch, d).
        views: ``Views`` of two views.
        momentum: (start, end) of the target's momentum over the run.
    """

    def __init__(self, encoder, projector, predictor, views, momentum):
        super().__init__()
        if views.count != 2:
            raise ConfigError(f"byol needs 2 views, the configuration makes {views.count}")
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.target_encoder, self.target_projector = slow_copy(encoder), slow_copy(projector)
        self.views, self.momentum = views, momentum

    def fit_statistics(self, batches):
        super().fit_statistics(batches)
        self.target_encoder.load_state_dict(self.encoder.state_dict())

    def forward(self, batch):
        """batch {"signal", "random", "progress"} -> {"loss", "embedding_std", "alignment", "uniformity",
        "momentum"}."""
        views = self.views(batch["signal"], batch["random"], input_mean(self.encoder))
        projections = self._head(self.projector, encode_views(self.encoder, views))
        predictions = self._head(self.predictor, projections)
        with torch.no_grad():
            targets = self._head(self.target_projector, encode_views(self.target_encoder, views))
        loss = byol_loss(predictions[0], targets[1]) + byol_loss(predictions[1], targets[0])
        momentum = torch.as_tensor(momentum_at(batch["progress"], *self.momentum)).to(loss.detach())
        return {"loss": loss, **embedding_health(*projections), "momentum": momentum}

    @staticmethod
    def _head(head, features):
        """Both views (2, batch, width) through a head at once: its BatchNorm sees them as one batch."""
        return head(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def after_step(self, progress: float):
        """Move the target towards the online network; progress of the run in [0, 1]."""
        momentum = momentum_at(progress, *self.momentum)
        follow(self.target_encoder, self.encoder, momentum)
        follow(self.target_projector, self.projector, momentum)


@register
def byol(encoder: Encoder = "xresnet1d50", views: str | list = "contrastive", head_width=512, head_out=128,
         momentum=0.996, momentum_end=1.0, fs: float | None = None):
    """BYOL around an encoder; ``fs`` is for views with spectrograms.

    Projector width-head_width-head_out and predictor head_out-head_width-head_out, both with BatchNorm and ReLU
    between.  The target's momentum runs on a cosine from ``momentum`` to ``momentum_end`` (published: 0.9 and 0.9).
    """
    return BYOL(encoder, mlp(encoder.width, head_width, head_out, norm=True),
                mlp(head_out, head_width, head_out, norm=True), Views(views, fs), (momentum, momentum_end))

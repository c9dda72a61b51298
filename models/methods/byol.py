"""BYOL (Grill et al., Bootstrap your own latent, NeurIPS 2020) for any encoder of the registry."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.layers.ema import follow, momentum_at, slow_copy
from models.layers.heads import embedding_health, mlp
from models.methods.view_method import ViewMethod, encode, project
from util.contract.encoder import Encoder
from util.contract.method import Batch
from util.contract.registry import register
from util.errors import ConfigError
from util.named_arguments import COUNT, SHARE
from util.signals.views import Views


def byol_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean over the batch of 2 - 2 cos(prediction, target), both (batch, d): equation
    2 of the paper.
    """
    return 2 - 2 * F.cosine_similarity(prediction.float(), target.detach().float(), dim=-1).mean()


class BYOL(ViewMethod):
    """The online network predicts, from one view, the slow target network's projection of the
    other.

    Args:
        encoder: encoder, see ``byol``.
        projector: (batch, encoder.width) to (batch, d).
        predictor: (batch, d) to (batch, d).
        views: ``Views`` of two views.
        momentum: (start, end) of the target's momentum over the run.
        joint_views: both views in one pass and one batch of every BatchNorm.
    """

    def __init__(
        self,
        encoder: Encoder,
        projector: nn.Module,
        predictor: nn.Module,
        views: Views,
        *,
        momentum: tuple[float, float],
        joint_views: bool,
    ):
        super().__init__()
        if views.count != 2:
            raise ConfigError(f"byol needs 2 views, the configuration makes {views.count}")
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.target_encoder, self.target_projector = slow_copy(encoder), slow_copy(projector)
        self.views, self.momentum, self.joint_views = views, momentum, joint_views

    def fit_statistics(self, batches: Iterable[torch.Tensor]) -> None:
        super().fit_statistics(batches)
        self.target_encoder.load_state_dict(self.encoder.state_dict())

    def forward(self, batch: Batch, drawn: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return {"loss", "embedding_std", "alignment", "uniformity", "momentum"}."""
        views = drawn["views"]
        projections = self._project(self.encoder, self.projector, views)
        predictions = project(self.predictor, projections, joint=self.joint_views)
        with torch.no_grad():
            targets = self._project(self.target_encoder, self.target_projector, views)
        # each view predicts the other
        loss = byol_loss(predictions[0], targets[1]) + byol_loss(predictions[1], targets[0])
        momentum = torch.as_tensor(momentum_at(batch["progress"], *self.momentum)).to(loss.detach())
        return {"loss": loss, **embedding_health(*projections), "momentum": momentum}

    def _project(
        self, encoder: Encoder, projector: nn.Module, views: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return projections (2, batch, d) of both views."""
        features = encode(encoder, views, joint=self.joint_views)
        return project(projector, features, joint=self.joint_views)

    def after_step(self, progress: float) -> None:
        """Move the target towards the online network; progress of the run in [0, 1]."""
        momentum = momentum_at(progress, *self.momentum)
        follow(self.target_encoder, self.encoder, momentum)
        follow(self.target_projector, self.projector, momentum)


@register
def byol(
    encoder: Encoder = "xresnet1d50",  # type: ignore[assignment]  # its name: see ``build``
    views: str | list = "contrastive",
    head_width: COUNT = 512,
    head_out: COUNT = 128,
    momentum: SHARE = 0.996,
    momentum_end: SHARE = 1.0,
    joint_views: bool = True,
    fs: float | None = None,
) -> BYOL:
    """Build BYOL around an encoder, with MLPs of BatchNorm and ReLU as projector
    (width-head_width-head_out) and predictor (head_out-head_width-head_out).

    Args:
        encoder: any one.
        views: a list of two views, or a preset's name.
        head_width, head_out: widths of projector and predictor.
        momentum, momentum_end: the target's, on a cosine over the run (published: 0.9 and 0.9).
        joint_views: false shows every network one view after the other, as in the paper's code
            and Phan et al.
        fs: sampling rate in Hz, for views with spectrograms.
    """
    return BYOL(
        encoder,
        mlp(encoder.width, head_width, head_out, norm=True),
        mlp(head_out, head_width, head_out, norm=True),
        Views(views, fs),
        momentum=(momentum, momentum_end),
        joint_views=joint_views,
    )

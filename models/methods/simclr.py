"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020) for any encoder of the registry."""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from models.layers.heads import embedding_health, mlp
from models.methods.view_method import ViewMethod, encode
from util.contract.encoder import Encoder
from util.contract.method import Batch
from util.contract.registry import register
from util.errors import ConfigError
from util.named_arguments import COUNT, POSITIVE
from util.processes.collectives import gather, rank, world
from util.signals.views import Views


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return NT-Xent, equation 1 of the paper, mean over the anchors of this process.

    An anchor's candidates are all views of all samples of all processes but itself.  Every
    process holds the loss of its own anchors, so the mean over processes, and DDP's mean of
    gradients, are those of one process with all samples.

    Args:
        first, second: embeddings (batch, d) of the two views, of any length; the same batch on
            every process.
        temperature: tau.
    """
    batch = len(first)
    with torch.autocast(first.device.type, enabled=False):
        pair = F.normalize(torch.stack([first, second]).float(), dim=-1)  # (2, batch, d)
        anchors = rearrange(pair, "view batch d -> (view batch) d")
        candidates = rearrange(gather(pair), "world view batch d -> (view world batch) d")
        similarity = anchors @ candidates.T / temperature
        # where this process's samples stand among the candidates, as first and as second views
        place = rank() * batch + torch.arange(batch, device=pair.device)
        other = place + len(candidates) // 2
        itself, partner = torch.cat([place, other]), torch.cat([other, place])
        return F.cross_entropy(similarity.scatter(1, itself[:, None], -torch.inf), partner)


class SimCLR(ViewMethod):
    """Two views of a crop attract each other and repel those of all other crops.

    Args:
        encoder: encoder, see ``simclr``.
        head: (batch, encoder.width) to (batch, d).
        views: ``Views`` of two views.
        temperature: NT-Xent's.
        joint_views: both views in one pass and one batch of BatchNorm, as in the paper's code.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: nn.Module,
        views: Views,
        *,
        temperature: float,
        joint_views: bool,
    ):
        super().__init__()
        if views.count != 2:
            raise ConfigError(f"simclr needs 2 views, the configuration makes {views.count}")
        self.encoder, self.head, self.views = encoder, head, views
        self.temperature, self.joint_views = temperature, joint_views

    def forward(self, batch: Batch, drawn: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return {"loss", "embedding_std", "alignment", "uniformity"}."""
        if len(batch["signal"]) * world() == 1:
            raise ConfigError(
                "simclr compares a record with the others of its step, and there is no other: "
                "raise dataloader.batch_size (train.accum_iter does not help)"
            )
        features = encode(self.encoder, drawn["views"], joint=self.joint_views)
        first, second = self.head(features)
        return {"loss": nt_xent(first, second, self.temperature), **embedding_health(first, second)}


@register
def simclr(
    encoder: Encoder = "xresnet1d50",  # type: ignore[assignment]  # its name: see ``build``
    views: str | list = "contrastive",
    head_width: COUNT = 512,
    head_out: COUNT = 128,
    temperature: POSITIVE = 0.1,
    joint_views: bool = True,
    fs: float | None = None,
) -> SimCLR:
    """Build SimCLR around an encoder, with an MLP width-head_width-head_out as head.

    Args:
        encoder: any one.
        views: a list of two views, or a preset's name.
        head_width, head_out: widths of the head.
        temperature: NT-Xent's.
        joint_views: false shows the encoder one view after the other (Phan et al., BHI 2022).
        fs: sampling rate in Hz, for views with spectrograms.
    """
    head = mlp(encoder.width, head_width, head_out)
    return SimCLR(encoder, head, Views(views, fs), temperature=temperature, joint_views=joint_views)

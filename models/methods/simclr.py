"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020) for any encoder of the registry."""

import torch
import torch.distributed as dist
from einops import rearrange
from torch.nn import functional as F

from models.layers.heads import embedding_health, mlp
from models.methods.view_method import ViewMethod, encode
from util.contract.encoder import Encoder
from util.contract.registry import register
from util.errors import ConfigError
from util.processes.collectives import gather
from util.signals.views import Views


def nt_xent(first, second, temperature: float) -> torch.Tensor:
    """NT-Xent, equation 1 of the paper, mean over the anchors of this process.

    Args:
        first, second: embeddings (batch, d) of the two views, of any length; the same batch on
            every process.
        temperature: tau.

    An anchor's candidates are all views of all samples of all processes but itself.  Every
    process holds the loss of its own anchors, so the mean over processes, and DDP's mean of
    gradients, are those of one process with all samples.
    """
    batch = len(first)
    with torch.autocast(first.device.type, enabled=False):
        own = F.normalize(torch.stack([first, second]).float(), dim=-1)  # (2, batch, d)
        gathered = gather(own)  # (world, 2, batch, d)
        candidates = rearrange(gathered, "world view batch d -> (view world batch) d")
        similarity = rearrange(own, "view batch d -> (view batch) d") @ candidates.T / temperature
        total = len(candidates) // 2
        rank = dist.get_rank() if dist.is_initialized() else 0
        place = rank * batch + torch.arange(batch, device=own.device)
        itself = torch.cat([place, place + total])
        partner = torch.cat([place + total, place])
        return F.cross_entropy(similarity.scatter(1, itself[:, None], -torch.inf), partner)


class SimCLR(ViewMethod):
    """Two views of a crop attract each other and repel those of all other crops.

    Args:
        encoder: encoder, see ``simclr``.
        head: (batch, encoder.width) -> (batch, d).
        views: ``Views`` of two views.
        temperature: NT-Xent's.
        joint_views: both views in one pass and one batch of BatchNorm, as in the paper's own
            code.
    """

    def __init__(self, encoder, head, views, temperature: float, joint_views: bool):
        super().__init__()
        if views.count != 2:
            raise ConfigError(f"simclr needs 2 views, the configuration makes {views.count}")
        self.encoder, self.head, self.views = encoder, head, views
        self.temperature, self.joint_views = temperature, joint_views

    def forward(self, batch):
        """batch {"signal", "random"} -> {"loss", "embedding_std", "alignment", "uniformity"}."""
        views = self.prepare(batch)["views"]
        first, second = self.head(encode(self.encoder, views, self.joint_views))
        return {"loss": nt_xent(first, second, self.temperature), **embedding_health(first, second)}


@register
def simclr(
    encoder: Encoder = "xresnet1d50",
    views: str | list = "contrastive",
    head_width=512,
    head_out=128,
    temperature=0.1,
    joint_views=True,
    fs: float | None = None,
):
    """SimCLR around an encoder; head MLP width-head_width-head_out.

    ``joint_views`` false: the encoder sees one view after the other (Phan et al., BHI 2022);
    ``fs`` is for views with spectrograms.
    """
    head = mlp(encoder.width, head_width, head_out)
    return SimCLR(encoder, head, Views(views, fs), temperature, joint_views)

"""JEPA: predict what a slow teacher makes of the hidden patches, not the patches (Assran et al.,
CVPR 2023; on ECGs: Weimann and Conrad 2024, Kim 2024).

With ViT's tokens, patches of all leads together, this is the first of the two; with ST-MEM's,
patches of single leads that are hidden at the same time in every lead, it is nearer to the
second.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from models.layers.blocks import HEAD_WIDTH, Block, init_transformer, sincos_positions, take
from models.layers.ema import follow, momentum_at, slow_copy
from util.contract.encoder import Encoder
from util.contract.method import Batch, Method
from util.contract.patch_encoder import PatchEncoder
from util.contract.registry import register
from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.named_arguments import COUNT, RATE, SHARE

LOSSES = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


def draw_context(random: KeyedRandom, n: int, kept: int, block: int) -> torch.Tensor:
    """Return which of n patches stay, (batch, kept) in order.

    The others are hidden in blocks of at least ``block`` neighbours, which may touch: each as
    long as a draw between that and all that is still to be hidden says, a rest shorter than
    ``block`` with one of them.

    n 12, kept 5, block 3:  # . . . # # # . . . . #
    """
    most = (n - kept) // block
    share = random.uniform(most)
    rest, lengths = torch.full_like(share[:, 0], n - kept, dtype=torch.int64), []
    for draw in share.unbind(dim=1):
        length = block + (draw * (rest - block + 1)).long()
        lengths.append(length.where(rest >= block, 0))
        rest = rest - lengths[-1]
    sizes = torch.stack(lengths, dim=1)
    chosen = random.integers((sizes > 0).sum(dim=1, keepdim=True), 1)
    sizes = sizes.scatter_add(1, chosen, rest[:, None])
    # A kept patch moves right by the blocks that lie before it; each has any of the kept + 1
    # places around the kept patches.
    number = torch.arange(kept, device=sizes.device)
    before = random.integers(kept + 1, most)[:, :, None] <= number
    return number + (sizes[:, :, None] * before).sum(dim=1)


def hidden_patches(keep: torch.Tensor, n: int) -> torch.Tensor:
    """Return the others of n patches than ``keep`` (batch, kept), (batch, n - kept) in order."""
    kept = torch.zeros(len(keep), n, dtype=torch.int8, device=keep.device).scatter(1, keep, 1)
    return kept.argsort(dim=1, stable=True)[:, : n - keep.shape[1]]


class Predictor(nn.Module):
    """A small transformer from the tokens of the context, and the places of hidden patches, to
    the teacher's tokens there.

    Args:
        width: of the tokens; inside it is half of it.
        depth: blocks.
        positions: patches of the longest input.
    """

    positions: torch.Tensor

    def __init__(self, width: int, depth: int, positions: int):
        super().__init__()
        inner = width // 2
        self.inputs = nn.Linear(width, inner)
        self.mask_embedding = nn.Parameter(torch.zeros(1, 1, inner))
        self.register_buffer(
            "positions", sincos_positions(inner, positions)[0, 1:], persistent=False
        )
        self.blocks = nn.ModuleList(Block(inner, max(inner // HEAD_WIDTH, 1)) for _ in range(depth))
        self.norm = nn.LayerNorm(inner)
        self.outputs = nn.Linear(inner, width)

    def forward(
        self, context: torch.Tensor, keep: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Return tokens (batch, m, width) for the hidden patches.

        Args:
            context: tokens (batch, kept, width).
            keep: their places (batch, kept).
            hidden: places (batch, m) of the others.
        """
        asked = self.mask_embedding + self.positions[hidden]
        tokens = torch.cat([self.inputs(context) + self.positions[keep], asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.outputs(self.norm(tokens[:, keep.shape[1] :]))


class JEPA(Method):
    """The encoder sees what blocks of hidden patches leave; a predictor says, from its tokens and
    the places of the hidden ones, what the teacher, which sees the whole crop, makes of these.
    The teacher is what is handed on.

    Where tokens are of single leads, the same times are hidden in all of them and each lead is
    predicted from its own tokens alone, so these must hold what is needed from other leads.

    Args:
        encoder: a ``PatchEncoder`` of patches in time, built without a head; its position table
            is replaced by the frozen sine-cosine one.
        context: share of the patches that the encoder sees.
        block: neighbouring patches that are hidden together, at least.
        predictor_depth: blocks of the predictor; None for as many as the encoder's.
        momentum: (start, end) of the teacher's momentum over the run.
        loss: a name of ``LOSSES``.
    """

    encoder: PatchEncoder

    def __init__(
        self,
        encoder: Encoder,
        *,
        context: float,
        block: int,
        predictor_depth: int | None,
        momentum: tuple[float, float],
        loss: str,
    ):
        super().__init__()
        if loss not in LOSSES:
            raise ConfigError(f"jepa: loss must be {' or '.join(LOSSES)}, not {loss!r}")
        if not isinstance(encoder, PatchEncoder) or not encoder.in_time:
            raise ConfigError(
                "jepa needs an encoder of patches in time (vit, mean_vit, st_mem_vit), not "
                f"{type(encoder).__name__}"
            )
        positions = encoder.patch_count(encoder.seq_len)
        self.context, self.block, self.momentum = context, block, momentum
        self.distance = LOSSES[loss]
        self._kept(positions)
        self.encoder = encoder
        encoder.fix_positions()
        depth = encoder.depth if predictor_depth is None else predictor_depth
        self.predictor = Predictor(encoder.width, depth, positions)
        init_transformer(self)
        self.teacher = slow_copy(encoder)

    def _kept(self, n: int) -> int:
        """Return how many of n patches the encoder sees."""
        kept = round(n * self.context)
        if not 0 < kept < n or not 0 < self.block <= n - kept:
            raise ConfigError(
                f"jepa: context {self.context} keeps {kept} of {n} patches and hides {n - kept}, "
                f"in blocks of at least {self.block}; it must keep one and hide a block: a "
                "smaller patch_size makes more patches, a smaller block fits into fewer"
            )
        return kept

    @property
    def handed_on(self) -> Encoder:
        return self.teacher

    @property
    def exports(self) -> dict[str, Encoder]:
        return {"student": self.encoder, "teacher": self.teacher}

    def fit_statistics(self, batches: Iterable[torch.Tensor]) -> None:
        super().fit_statistics(batches)
        self.teacher.load_state_dict(self.encoder.state_dict())

    def draw(self, batch: Batch) -> dict[str, Any]:
        """Return "keep": the patches in time that the encoder sees, (batch, kept)."""
        n = self.encoder.patch_count(batch["signal"].shape[-1])
        return {"keep": draw_context(batch["random"], n, self._kept(n), self.block)}

    def forward(self, batch: Batch, drawn: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Encode the context, predict the teacher's tokens elsewhere and compare.

        Returns:
            "loss": mean distance, L1 or smooth L1.
            "embedding_std": standard deviation over this process's batch of the teacher's tokens at
                the same place, mean over places and dimensions, about 1 where records differ (less
                in batches of few) and 0 after collapse.
            "momentum": the teacher's.
        """
        series, keep = batch["signal"], drawn["keep"]
        with torch.no_grad():
            target = self.teacher.patch_tokens(self.teacher.tokens(series)).float()
            target = F.layer_norm(target, target.shape[-1:])  # (batch, [leads,] n, width)
        hidden = hidden_patches(keep, target.shape[-2])
        if target.ndim == 4:  # the same times of every lead
            keep, hidden = (
                places[:, None].expand(-1, target.shape[1], -1) for places in (keep, hidden)
            )
        context = self.encoder.patch_tokens(self.encoder.tokens(series, keep))
        expected = take(target, hidden)
        # leads, where there are any, into the batch
        context, expected = (
            rearrange(tokens, "... n d -> (...) n d") for tokens in (context, expected)
        )
        keep, hidden = (rearrange(places, "... n -> (...) n") for places in (keep, hidden))
        predicted = self.predictor(context, keep, hidden)
        spread = target.std(dim=0, correction=0).mean()
        momentum = torch.as_tensor(momentum_at(batch["progress"], *self.momentum)).to(spread)
        return {
            "loss": self.distance(predicted.float(), expected),
            "embedding_std": spread,
            "momentum": momentum,
        }

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the encoder; progress of the run in [0, 1]."""
        follow(self.teacher, self.encoder, momentum_at(progress, *self.momentum))


@register
def jepa(
    encoder: Encoder = "mean_vit_small",  # type: ignore[assignment]  # its name: see ``build``
    context: RATE = 0.2,
    block: COUNT = 10,
    predictor_depth: COUNT | None = None,
    momentum: SHARE = 0.998,
    momentum_end: SHARE = 0.9995,
    loss: str = "l1",
) -> JEPA:
    """Build JEPA around ViT's or ST-MEM's encoder.

    The papers draw the share of the context between 0.15 and 0.25 for each batch and move the
    momentum on a line; here the share is one number, so that shapes stay, and the line a cosine.

    Args:
        encoder: vit, mean_vit or st_mem_vit.
        context: share of the patches that the encoder sees.
        block: neighbouring patches that are hidden together, at least.
        predictor_depth: blocks of the predictor; null for the encoder's.
        momentum, momentum_end: the teacher's, over the run.
        loss: l1 as Weimann and Conrad's, or smooth_l1 as Kim's.
    """
    return JEPA(
        encoder,
        context=context,
        block=block,
        predictor_depth=predictor_depth,
        momentum=(momentum, momentum_end),
        loss=loss,
    )

"""JEPA: predict what a slow teacher makes of the hidden patches, not the patches (Assran et al.,
CVPR 2023; on ECGs: Weimann and Conrad 2024, Kim 2024).

With ViT's tokens, patches of all leads together, this is the first of the two; with ST-MEM's,
patches of single leads that are hidden at the same time in every lead, it is nearer to the
second.
"""

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from models.encoder.st_mem_vit import ST_MEM_ViT
from models.encoder.vit import ViT
from models.layers.blocks import HEAD_WIDTH, Block, init_transformer, sincos_positions, take
from models.layers.ema import follow, momentum_at, slow_copy
from util.contract.encoder import Encoder
from util.contract.method import Method
from util.contract.registry import register
from util.errors import ConfigError


def draw_context(random, n, kept, blocks):
    """Which of n patches stay: ``kept`` of them in runs of neighbours, (batch, kept) in order.
    Two runs may touch.

    n 12, kept 6, blocks 2:  . # # # . . . . # # # .
    """
    # each run goes somewhere between the n - kept patches that stay hidden
    places = random.integers(n - kept + 1, blocks).sort(dim=1).values
    owner = torch.arange(kept, device=places.device) * blocks // kept
    return places[:, owner] + torch.arange(kept, device=places.device)


def hidden_patches(keep, n):
    """The others of n patches than ``keep`` (batch, kept), (batch, n - kept) in order."""
    kept = torch.zeros(len(keep), n, dtype=torch.int8, device=keep.device).scatter(1, keep, 1)
    return kept.argsort(dim=1, stable=True)[:, : n - keep.shape[1]]


class Predictor(nn.Module):
    """From the tokens of the context and the places of hidden patches to the teacher's tokens
    there.

    Args:
        width: of the tokens; inside it is half of it.
        depth: blocks.
        positions: patches of the longest input.
    """

    def __init__(self, width, depth, positions):
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

    def forward(self, context, keep, hidden):
        """context (batch, kept, width), keep (batch, kept), hidden (batch, m) -> (batch, m,
        width).
        """
        asked = self.mask_embedding + self.positions[hidden]
        tokens = torch.cat([self.inputs(context) + self.positions[keep], asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.outputs(self.norm(tokens[:, keep.shape[1] :]))


class JEPA(Method):
    """The encoder sees a few runs of neighbouring patches; a predictor says, from its tokens and
    the places of all other patches, what the teacher, which sees the whole crop, makes of these.

    Args:
        encoder: built without a head; its position table is replaced by the frozen sine-cosine
            one.
        context: share of the patches that the encoder sees; block: patches a run of them has at
            least.
        predictor_depth: blocks of the predictor; None for as many as the encoder's.
        momentum: (start, end) of the teacher's momentum over the run.

    Where tokens are of single leads, the same times are hidden in all of them and each lead is
    predicted from its own tokens: what other leads have to say has to be in these.
    """

    def __init__(self, encoder, context, block, predictor_depth, momentum):
        super().__init__()
        if not isinstance(encoder, (ViT, ST_MEM_ViT)):
            raise ConfigError(
                "jepa needs an encoder of patches in time (vit, mean_vit, st_mem_vit), not "
                f"{type(encoder).__name__}"
            )
        positions = encoder.seq_len // encoder.patch_size
        self.context, self.block, self.momentum = context, block, momentum
        self._sizes(positions)
        self.encoder = encoder
        behind = encoder.pos_embedding.shape[1] - 1 - positions
        encoder.pos_embedding = nn.Parameter(
            sincos_positions(encoder.width, positions, behind), requires_grad=False
        )
        depth = encoder.depth if predictor_depth is None else predictor_depth
        self.predictor = Predictor(encoder.width, depth, positions)
        init_transformer(self)
        self.teacher = slow_copy(encoder)

    def _sizes(self, n):
        """How many of n patches the encoder sees, and in how many runs."""
        kept = round(n * self.context)
        if not 0 < kept < n or self.block < 1:
            raise ConfigError(
                f"jepa: context {self.context} in runs of {self.block} keeps {kept} of {n} "
                "patches; keep one at least and hide one: a smaller patch_size makes more of them"
            )
        return kept, max(kept // self.block, 1)

    @property
    def exports(self):
        return {"teacher": self.teacher}

    def prepare(self, batch):
        """With "keep": the patches in time that the encoder sees, (batch, kept)."""
        if "keep" in batch:
            return batch
        n = batch["signal"].shape[-1] // self.encoder.patch_size
        kept, blocks = self._sizes(n)
        return {**batch, "keep": draw_context(batch["random"], n, kept, blocks)}

    def forward(self, batch):
        """batch {"signal", "random", "progress"} -> {"loss", "embedding_std", "momentum"}.

        ``embedding_std``: standard deviation over the batch of the teacher's tokens at the same
        place, mean over places and dimensions, about 1 where records differ and 0 after collapse.
        """
        series, keep = batch["signal"], self.prepare(batch)["keep"]
        with torch.no_grad():
            target = self.teacher.patch_tokens(self.teacher.tokens(series)).float()
            target = F.layer_norm(target, target.shape[-1:])  # (batch, ..., n, width)
        hidden = hidden_patches(keep, target.shape[-2])
        if target.ndim == 4:  # the same times of every lead
            keep, hidden = (
                places[:, None].expand(-1, target.shape[1], -1) for places in (keep, hidden)
            )
        context = self.encoder.patch_tokens(self.encoder.tokens(series, keep))
        expected = take(target, hidden)
        context, expected = (
            rearrange(tokens, "... n d -> (...) n d") for tokens in (context, expected)
        )
        keep, hidden = (rearrange(places, "... n -> (...) n") for places in (keep, hidden))
        predicted = self.predictor(context, keep, hidden)
        spread = target.std(dim=0, correction=0).mean()
        momentum = torch.as_tensor(momentum_at(batch["progress"], *self.momentum)).to(spread)
        return {
            "loss": F.smooth_l1_loss(predicted.float(), expected),
            "embedding_std": spread,
            "momentum": momentum,
        }

    def after_step(self, progress: float):
        """Move the teacher towards the encoder; progress of the run in [0, 1]."""
        follow(self.teacher, self.encoder, momentum_at(progress, *self.momentum))


@register
def jepa(
    encoder: Encoder = "mean_vit_small",
    context=0.2,
    block=10,
    predictor_depth: int | None = None,
    momentum=0.998,
    momentum_end=0.9995,
):
    """JEPA around ViT's or ST-MEM's encoder.

    ``predictor_depth`` null: the encoder's.  The papers draw the share of the context between
    0.15 and 0.25 for each batch and move the momentum on a line; here the share is one number, so
    that shapes stay, and the line a cosine.
    """
    return JEPA(encoder, context, block, predictor_depth, (momentum, momentum_end))

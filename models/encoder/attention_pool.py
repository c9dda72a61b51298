"""A learnt query over an encoder's tokens: what a frozen encoder knows, wherever in the crop."""

from math import gcd

import torch
from torch import nn

from util.contract.encoder import Encoder
from util.contract.registry import register
from util.named_arguments import COUNT


class QueryPool(nn.Module):
    """One learnt query that attends to tokens.

    Args:
        width: of the tokens.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.norm = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return one vector (batch, width) of tokens (batch, n, width)."""
        seen = self.norm(tokens)
        query = self.query.expand(len(tokens), -1, -1)
        return self.attend(query, seen, seen, need_weights=False)[0][:, 0]


class AttentionPool(Encoder):
    """An encoder whose features are its tokens, pooled by attention of a learnt query.

    The query belongs to the head: mode linprobe trains both and leaves the encoder as it is.

    Args: see ``attention_pool``.
    """

    def __init__(self, encoder: Encoder, heads: int, num_classes: int | None):
        super().__init__()
        self.encoder, self.width = encoder, encoder.token_width
        self.pool = QueryPool(self.width, gcd(heads, self.width))
        self.head = nn.Identity() if num_classes is None else nn.Linear(self.width, num_classes)

    @property
    def branches(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    @property
    def fresh_parts(self) -> dict[str, nn.Module]:
        return {"pool": self.pool, "head": self.head}

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        return self.pool(self.encoder.tokens(series))


@register
def attention_pool(
    encoder: Encoder = "st_mem_vit_base",  # type: ignore[assignment]  # its name: see ``build``
    heads: COUNT = 16,
    num_classes: int | None = 24,
) -> AttentionPool:
    """Put a head with a learnt query on an encoder that has tokens.

    Args:
        encoder: any one with ``tokens``, such as those of models/encoder/*vit.py and of CPC.
        heads: of the query's attention; the largest common divisor with the tokens' width.
        num_classes: width of the linear head; None for none.
    """
    return AttentionPool(encoder, heads, num_classes)

"""Transformer pieces shared by the ViT encoders and by the masked autoencoders' decoders.

Attribute names are fixed by the published checkpoints (``attn.fn.to_qkv``, ``ff.fn.net.0`` ...),
so that their weights load here and ours load there.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange

from util.contract.encoder import Recomputable

HEAD_WIDTH = 64
# tokens up to which a CPU attends faster written out (benchmarks/attention.py), much so in bf16
SHORT = 128


class PreNorm(nn.Module):
    """A module applied to the LayerNorm of its input."""

    def __init__(self, width: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return fn(LayerNorm(x)) for x (..., width)."""
        return self.fn(self.norm(x))


class FeedForward(nn.Module):
    """A two-layer perceptron with exact (erf) GELU."""

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., width) for x (..., width)."""
        return self.net(x)


def written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout_p: float
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(width)) v over (..., tokens, width), as
    F.scaled_dot_product_attention does.
    """
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return F.dropout(weights, dropout_p) @ v


class Attention(nn.Module):
    """Multi-head self-attention with heads of 64.

    One projection holds q, k and v, each split head-major; a single head as wide as the model has
    no output projection.
    """

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, attention_dropout: float = 0.0
    ):
        super().__init__()
        inner = HEAD_WIDTH * heads
        self.heads, self.attention_dropout = heads, attention_dropout
        self.to_qkv = nn.Linear(width, 3 * inner)
        if heads == 1 and width == HEAD_WIDTH:
            self.to_out: nn.Module = nn.Identity()
        else:
            self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))

    def _project(self, x: torch.Tensor) -> list[torch.Tensor]:
        """q, k and v of x, each (batch, heads, tokens, HEAD_WIDTH)."""
        packed = self.to_qkv(x).unflatten(-1, (3, self.heads, HEAD_WIDTH))
        # Taken apart in the product's own order: their gradients are joined in one pass.
        return [part.transpose(1, 2) for part in packed.unbind(2)]

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """Return what each token of x (batch, tokens, width) gives to the others, (batch, heads,
        tokens, tokens), for people to look at; rows sum to 1.
        """
        q, k, _ = self._project(x)
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, tokens, width) for x of the same shape."""
        q, k, v = self._project(x)
        short = x.device.type == "cpu" and x.shape[1] <= SHORT
        attend = written_out if short else F.scaled_dot_product_attention
        out = attend(q, k, v, dropout_p=self.attention_dropout if self.training else 0.0)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole samples while
    training.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x (batch, tokens, width) with zeros for some samples and the others scaled up,
        so that the expectation stays.
        """
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class Block(Recomputable):
    """A pre-norm transformer block."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.attn = PreNorm(width, Attention(width, heads, dropout, attention_dropout))
        self.ff = PreNorm(width, FeedForward(width, dropout))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x + Attention(LN(x)), then x + FeedForward(LN(x)), for x (batch, tokens,
        width).
        """
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.ff(x))


def take(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the tokens (..., k, width) at index (..., k) of tokens (..., n, width)."""
    return tokens.gather(-2, index[..., None].expand(*index.shape, tokens.shape[-1]))


def patch_embedding(patch_width: int, width: int) -> nn.Sequential:
    """Return LayerNorm, Linear, LayerNorm from patches (..., patch_width) to tokens (..., width).

    Item 0 stands for the published rearrangement, which has no weights.
    """
    return nn.Sequential(
        nn.Identity(), nn.LayerNorm(patch_width), nn.Linear(patch_width, width), nn.LayerNorm(width)
    )


def init_transformer(model: nn.Module) -> None:
    """Start Linears with Xavier uniform weights and zero biases, learned tokens with normal(0.02);
    LayerNorms keep 1 and 0.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
        elif (
            name.endswith(("mask_embedding", "sep_embedding", "cls_embedding"))
            or "lead_embeddings" in name
        ):
            nn.init.normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def sincos_positions(width: int, positions: int, zero_rows_behind: int = 0) -> torch.Tensor:
    """Return the sine-cosine table (1, 1 + positions + zero_rows_behind, width).

    A zero row, for a separator or a class token, comes first; then position p = 0, 1, ...:
    entry k is sin(p / 10000^(k / (width/2))), entry width/2 + k the cosine.
    """
    exponent = torch.arange(width // 2, dtype=torch.float32) / (width / 2)
    angle = torch.arange(positions, dtype=torch.float32)[:, None] / 10000**exponent
    table = torch.zeros(1, 1 + positions + zero_rows_behind, width)
    table[0, 1 : positions + 1] = torch.cat([angle.sin(), angle.cos()], dim=1)
    return table

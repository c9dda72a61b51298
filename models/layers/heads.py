"""What self-supervised methods share around an encoder: projection heads, and numbers that show
collapse.
"""

from collections.abc import Callable
from itertools import pairwise
from math import sqrt

import torch
from torch import nn
from torch.nn import functional as F


def mlp(
    *widths: int, norm: bool = False, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Return Linear layers of these widths with an activation between them, none at the end.

    Example: ``mlp(512, 512, 128)`` maps (batch, 512) to (batch, 128) by Linear, ReLU, Linear.

    Args:
        norm: put a BatchNorm before each activation.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers.append(nn.Linear(inputs, outputs))
        if norm:
            layers.append(nn.BatchNorm1d(outputs))
        layers.append(activation())
    return nn.Sequential(*layers[: -2 if norm else -1])


class Prototypes(nn.Module):
    """A linear layer without bias whose weight vectors are normalised to length 1."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(outputs, inputs), std=0.02))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the products (..., outputs) of x (..., inputs) with the prototypes."""
        # In float32 under autocast, too: DINO divides the result by 0.04, and bfloat16 keeps 2 to
        # 3 digits.
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), F.normalize(self.weight, dim=1))


class DINOHead(nn.Module):
    """The head of DINO (Caron et al. 2021, section 3.1): MLP with GELU, L2 norm, weight-normalised
    prototypes.

    Args:
        width: width of the encoder's features.
        hidden: width of the hidden layers.
        bottleneck: width of the L2-normalised embedding.
        outputs: number of prototypes.
        std: of the normal that the MLP's weights start from; 0.044 is Xavier's for Linear(512,
            512).
    """

    def __init__(
        self,
        width: int,
        hidden: int = 512,
        bottleneck: int = 128,
        outputs: int = 65536,
        std: float = 0.02,
    ):
        super().__init__()
        self.mlp = mlp(width, hidden, hidden, bottleneck, activation=nn.GELU)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)
        self.last_layer = Prototypes(bottleneck, outputs)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings (..., bottleneck) of length 1 and logits (..., outputs) of features
        (..., width).
        """
        embedding = F.normalize(self.mlp(features), dim=-1)
        return embedding, self.last_layer(embedding)


def _uniformity(z: torch.Tensor) -> torch.Tensor:
    """Return log mean over pairs of exp(-2 |z_i - z_j|^2), for z (batch, d) of length 1; 0, the
    worst value, for a single embedding.
    """
    batch = len(z)
    if batch == 1:
        return z.new_zeros(())
    potential = (-2 * (2 - 2 * z @ z.T)).exp()  # (batch, batch); |a - b|^2 = 2 - 2 a b
    return ((potential.sum() - potential.diagonal().sum()) / (batch * (batch - 1))).log()


@torch.no_grad()
def embedding_health(first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what shows collapse in the embeddings (batch, d) of two views on this process.

    Returns:
        "embedding_std": standard deviation over the batch of the L2-normalised embeddings, mean
            over dimensions, times sqrt(d): about 1 for embeddings spread over the sphere, 0 after
            collapse (Chen & He, SimSiam, 2021).
        "alignment": mean squared distance of the two views of a sample (Wang & Isola 2020,
            equation 4; lower is better).
        "uniformity": log mean Gaussian potential of different samples, t = 2, mean over the two
            views (equation 5; lower is better).
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = (F.normalize(z.float(), dim=-1) for z in (first, second))
        spread = torch.cat([z.std(0, correction=0) for z in (first, second)]).mean()
        return {
            "embedding_std": spread * sqrt(first.shape[1]),
            "alignment": (first - second).square().sum(1).mean(),
            "uniformity": (_uniformity(first) + _uniformity(second)) / 2,
        }

"""What self-supervised methods share around an encoder: projection heads, and numbers that show
collapse.
"""

from math import sqrt

import torch
from torch import nn
from torch.nn import functional as F


def mlp(*widths: int, norm: bool = False, activation=nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with an activation (``norm``: after BatchNorm) between them,
    none at the end.

    Example: ``mlp(512, 512, 128)`` maps (batch, 512) to (batch, 128) by Linear, ReLU, Linear.
    """
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [
            nn.Linear(inputs, outputs),
            *([nn.BatchNorm1d(outputs)] if norm else []),
            activation(),
        ]
    return nn.Sequential(*layers[: -2 if norm else -1])


class Prototypes(nn.Module):
    """Weight-normalised linear layer without bias whose lengths are fixed to 1: (batch, inputs)
    -> (batch, outputs).

    ``frozen`` (true, or a 0-dim tensor that is) keeps the weights out of training for this call:
    they get a gradient of exactly zero (not none: DDP waits for every parameter).  AdamW's
    decoupled weight decay may still shorten them, which changes nothing here.

    Computed in float32 under autocast too: DINO divides the result by 0.04, and bfloat16 keeps 2
    to 3 digits.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(outputs, inputs), std=0.02))

    def forward(self, x, frozen=False):
        weight = (
            self.weight
            if frozen is False
            else torch.where(
                torch.as_tensor(frozen, device=x.device), self.weight.detach(), self.weight
            )
        )
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), F.normalize(weight, dim=1))


class DINOHead(nn.Module):
    """Head of DINO (Caron et al. 2021, section 3.1): MLP with GELU, L2 norm, weight-normalised
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

    def forward(self, features, freeze_last_layer=False):
        """(..., width) -> (embedding (..., bottleneck) of length 1, logits (..., outputs))."""
        embedding = F.normalize(self.mlp(features), dim=-1)
        return embedding, self.last_layer(embedding, freeze_last_layer)


def _uniformity(z):
    """log mean over pairs of exp(-2 |z_i - z_j|^2); 0, the worst value, for a single embedding."""
    batch = len(z)
    if batch == 1:
        return z.new_zeros(())
    apart = (-2 * (2 - 2 * z @ z.T)).exp()
    return ((apart.sum() - apart.diagonal().sum()) / (batch * (batch - 1))).log()


@torch.no_grad()
def embedding_health(first, second) -> dict[str, torch.Tensor]:
    """What collapse looks like, from the embeddings (batch, d) of two views on this process;
    0-dim tensors.

    - embedding_std: standard deviation over the batch of the L2-normalised embeddings, mean over
      dimensions, times sqrt(d): about 1 for embeddings spread over the sphere, 0 after collapse
      (Chen & He, SimSiam, 2021).
    - alignment: mean squared distance of the two views of a sample, uniformity: log mean Gaussian
      potential of different samples, t = 2, mean over the two views (Wang & Isola 2020, equations
      4 and 5; lower is better).
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = (F.normalize(z.float(), dim=-1) for z in (first, second))
        spread = torch.cat([first.std(0, correction=0), second.std(0, correction=0)]).mean() * sqrt(
            first.shape[1]
        )
        return {
            "embedding_std": spread,
            "alignment": (first - second).square().sum(1).mean(),
            "uniformity": (_uniformity(first) + _uniformity(second)) / 2,
        }

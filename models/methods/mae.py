"""What ST-MEM, MTAE and MLAE share: random masking, decoder, loss, initialisation (He et al.,
CVPR 2022, on ECGs).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn as nn

from models.encoder.vit import SIZES
from models.layers.blocks import Block, init_transformer, take
from util.contract.method import Batch, Method
from util.contract.patch_encoder import PatchEncoder
from util.contract.registry import register
from util.errors import ConfigError
from util.named_arguments import COUNT, RATE

# dec256d4b is the published one.  dec128d2b goes with tiny encoders, for laptops: there the
# decoder, which sees every patch, does most of the work, and this one makes a step 3 times faster.
DECODERS = {
    "dec256d4b": {"width": 256, "depth": 4, "heads": 4},
    "dec128d2b": {"width": 128, "depth": 2, "heads": 2},
}
EPS = 1e-6  # added to the variance of a patch, as published


def kept_tokens(n: int, mask_ratio: float) -> int:
    """Return how many of n tokens stay visible: ``int(n * (1 - mask_ratio))`` in floating point,
    rounding errors included, as published.

    Raises:
        ConfigError: the ratio keeps or masks nothing, where the loss would be undefined.
    """
    kept = int(n * (1 - mask_ratio))
    if not 0 < kept < n:
        raise ConfigError(
            f"mask_ratio {mask_ratio} keeps {kept} of {n} tokens; keep one at least and mask one"
        )
    return kept


def draw_mask(
    noise: torch.Tensor, mask_ratio: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose the tokens that stay visible: those with the smallest noise.

    Args:
        noise: uniform (..., n), one number per token.
        mask_ratio: share of tokens to mask.

    Returns:
        keep: indices (..., kept) of the visible tokens, in the order of their noise.
        restore: (..., n), the inverse permutation, which puts [kept tokens, masked tokens] back
            in place.
        mask: float32 (..., n), 0 kept and 1 masked.
    """
    kept = kept_tokens(noise.shape[-1], mask_ratio)
    # stable, as two of these 24-bit numbers may be equal: their order must not depend on the rest
    # of the batch
    order = noise.argsort(dim=-1, stable=True)
    restore = order.argsort(dim=-1)
    return order[..., :kept], restore, (restore >= kept).float()


def patch_moments(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (..., 1) of each patch (..., values).

    The deviation comes from the unbiased variance, as published, and is never 0.
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPS).sqrt()


class MaskedAutoencoder(Method):
    """Hide patches, encode the others, rebuild the hidden ones.

    The base class of ST-MEM, MTAE and MLAE, each of which writes ``decode``.  In the shapes below
    "..." is the leads for ST-MEM, whose patches are of single leads, and nothing for the others.

    Args:
        encoder: built without a head; its position table is replaced by the frozen sine-cosine
            one.
        norm_pix_loss: standardise each target patch by its own mean and deviation.
        mask_ratio: share of tokens to mask.
        decoder: width, depth and heads of the decoder.
    """

    encoder: PatchEncoder

    def __init__(
        self,
        encoder: PatchEncoder,
        *,
        norm_pix_loss: bool = True,
        mask_ratio: float = 0.75,
        decoder: Mapping[str, int] = DECODERS["dec256d4b"],
    ):
        super().__init__()
        kept_tokens(encoder.patch_count(encoder.seq_len), mask_ratio)  # its errors, at once
        width, depth, heads = decoder["width"], decoder["depth"], decoder["heads"]
        self.norm_pix_loss, self.mask_ratio = norm_pix_loss, mask_ratio
        self.mask_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(encoder.position_table(width), requires_grad=False)
        self.encoder = encoder
        encoder.fix_positions()
        # The published checkpoints also hold the patch embedding under this name: the same module.
        self.to_patch_embedding = encoder.to_patch_embedding
        self.to_decoder_embedding = nn.Linear(encoder.width, width)
        self.decoder_blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)  # as published
        self.decoder_head = nn.Linear(width, encoder.patch_width)
        init_transformer(self)

    def draw(self, batch: Batch) -> dict[str, Any]:
        """Return "noise": uniform (batch, ..., n), one number per patch, which decides the mask."""
        shape, random = self.encoder.patchify(batch["signal"]).shape[1:-1], batch["random"]
        return {"noise": random.uniform(*shape)}

    def forward(self, batch: Batch, drawn: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Mask, encode, decode and compare.

        Returns:
            "loss": scalar.
            "pred": the decoder's patches (batch, ..., n, patch_width).
            "mask": (batch, ..., n), 1 where masked.
        """
        series = batch["signal"]
        target = self.encoder.patchify(series)
        keep, restore, mask = draw_mask(drawn["noise"], self.mask_ratio)
        latent = self.encoder.tokens(series, keep)
        pred = self.decode(latent, restore)
        return {"loss": self.loss(target, pred, mask), "pred": pred, "mask": mask}

    def decode(self, latent: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        """Return the predicted patches (batch, ..., n, patch_width).

        Args:
            latent: the encoder's tokens (batch, tokens, encoder width): those of visible patches
                and what the encoder adds to them (class token or separators).
            restore: (batch, ..., n), see ``draw_mask``.
        """
        raise NotImplementedError

    def fill_masked(self, visible: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        """Return n tokens (..., n, width) in the order of the patches: the visible ones,
        (..., kept, width), in their places, and the mask token everywhere else.
        """
        masked = restore.shape[-1] - visible.shape[-2]
        tokens = self.mask_embedding.expand(*visible.shape[:-2], masked, visible.shape[-1])
        return take(torch.cat([visible, tokens], dim=-2), restore)

    def run_decoder(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the patches (..., n, patch_width) predicted from tokens (..., n, width)."""
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_head(self.decoder_norm(tokens))

    def loss(self, target: torch.Tensor, pred: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of the masked patches.

        Args:
            target, pred: patches (batch, ..., n, patch_width).
            mask: (batch, ..., n), 1 where masked.
        """
        if self.norm_pix_loss:
            mean, std = patch_moments(target)
            target = (target - mean) / std
        error = (pred.to(target.dtype) - target).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def reconstruct(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return signal, reconstruction and mask, each (batch, leads, time).

        The reconstruction is the decoder's output everywhere, in visible patches, too.  With
        norm_pix_loss each patch is scaled back by the true patch's mean and standard deviation.
        """
        out = self(batch, self.draw(batch))
        target, pred = self.encoder.patchify(batch["signal"]), out["pred"].float()
        if self.norm_pix_loss:
            mean, std = patch_moments(target)
            pred = pred * std + mean
        mask = out["mask"][..., None].expand(target.shape)
        unpatchify = self.encoder.unpatchify
        return batch["signal"], unpatchify(pred), unpatchify(mask) > 0.5


class ClassTokenAutoencoder(MaskedAutoencoder):
    """A masked autoencoder whose encoder has a class token: MTAE and MLAE."""

    def decode(self, latent: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        tokens = self.to_decoder_embedding(latent)
        table, n = self.decoder_pos_embed, restore.shape[1]
        tokens = torch.cat([tokens[:, :1], self.fill_masked(tokens[:, 1:], restore)], dim=1)
        position = torch.cat([table[0, :1], self.encoder.patch_positions(table, n)])
        return self.run_decoder(tokens + position)[:, 1:]


def mae_factory(
    model_class: type[MaskedAutoencoder],
    encoder_class: type[PatchEncoder],
    name: str,
    patch_size: int = 75,
) -> Callable[..., MaskedAutoencoder]:
    """Return the registered function ``name``, which builds a method with its encoder.

    Args:
        name: <method>_vit_<one of SIZES>_<one of DECODERS>.
        patch_size: the function's default for the argument of that name.
    """
    size, decoder = name.split("_")[-2:]

    def factory(
        *,
        seq_len: int = 2250,
        patch_size: COUNT = patch_size,
        num_leads: int = 12,
        leads: str | list[str] | None = None,
        norm_pix_loss: bool = True,
        mask_ratio: float = 0.75,
        drop_path_rate: RATE = 0.0,
    ) -> MaskedAutoencoder:
        encoder = encoder_class(
            seq_len=seq_len,
            patch_size=patch_size,
            num_leads=num_leads,
            leads=leads,
            drop_path_rate=drop_path_rate,
            **SIZES[size],
        )
        return model_class(
            encoder, norm_pix_loss=norm_pix_loss, mask_ratio=mask_ratio, decoder=DECODERS[decoder]
        )

    factory.__name__ = factory.__qualname__ = name
    factory.__module__ = model_class.__module__
    factory.__doc__ = (
        f"Build {model_class.__name__} with a {size} encoder {SIZES[size]} and decoder "
        f"{DECODERS[decoder]}."
    )
    return register(factory)

"""What ST-MEM, MTAE and MLAE share: random masking, decoder, loss, initialisation (He et al.,
CVPR 2022, on ECGs).
"""

import torch
import torch.nn as nn

from models.encoder.vit import SIZES
from models.layers.blocks import Block, init_transformer, sincos_positions, take
from util.contract.method import Method
from util.contract.registry import register
from util.errors import ConfigError

# width 256 and depth 4 as published; the tiny one, for laptops, makes a step three times faster:
# with a tiny encoder most of the work is the decoder's, which sees every patch
DECODERS = {
    "dec256d4b": {"width": 256, "depth": 4, "heads": 4},
    "dec128d2b": {"width": 128, "depth": 2, "heads": 2},
}


def kept_tokens(n, mask_ratio):
    """How many of n tokens stay: ``int(n * (1 - mask_ratio))``, rounding errors of the product
    included, as published; a ConfigError for a ratio that keeps or masks nothing, where the loss
    would be undefined.
    """
    kept = int(n * (1 - mask_ratio))
    if not 0 < kept < n:
        raise ConfigError(
            f"mask_ratio {mask_ratio} keeps {kept} of {n} tokens; keep one at least and mask one"
        )
    return kept


def draw_mask(noise, mask_ratio):
    """Which tokens stay, from uniform noise (..., n): the ``kept_tokens`` with the smallest
    noise.

    Returns:
        keep (..., kept) indices in noise order; restore (..., n), the inverse permutation that
        puts [kept tokens, masked tokens] back in place; mask (..., n) float32, 0 kept and 1
        masked.
    """
    kept = kept_tokens(noise.shape[-1], mask_ratio)
    # stable: the noise has 24 bits, and two equal numbers must not be ordered by what else is in
    # the batch
    order = noise.argsort(dim=-1, stable=True)
    restore = order.argsort(dim=-1)
    return order[..., :kept], restore, (restore >= kept).float()


class MaskedAutoencoder(Method):
    """Base of the three masked autoencoders.  A subclass says how to decode.

    Args:
        encoder: built without a head; its position table is replaced by the frozen sine-cosine
            one.
        target_width: values a patch.
        positions: tokens with a position of their own; ``zero_rows_behind`` as in
            ``sincos_positions``.
        tokens: tokens of a full input where they are fewer than the positions.
        decoder: width, depth and heads of the decoder.
        norm_pix_loss: standardise each target patch (unbiased variance, eps 1e-6).
        mask_ratio: share of tokens to mask.
    """

    def __init__(
        self,
        encoder,
        *,
        target_width,
        positions,
        zero_rows_behind=0,
        tokens=None,
        norm_pix_loss=True,
        mask_ratio=0.75,
        decoder=DECODERS["dec256d4b"],
    ):
        super().__init__()
        kept_tokens(tokens or positions, mask_ratio)
        width, depth, heads = decoder["width"], decoder["depth"], decoder["heads"]
        self.norm_pix_loss, self.mask_ratio = norm_pix_loss, mask_ratio
        self.mask_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(
            sincos_positions(width, positions, zero_rows_behind), requires_grad=False
        )
        self.encoder = encoder
        encoder.pos_embedding = nn.Parameter(
            sincos_positions(encoder.width, positions, zero_rows_behind), requires_grad=False
        )
        # The published checkpoints hold the patch embedding under this name, too (one storage).
        self.to_patch_embedding = encoder.to_patch_embedding
        self.to_decoder_embedding = nn.Linear(encoder.width, width)
        self.decoder_blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)  # as published
        self.decoder_head = nn.Linear(width, target_width)
        init_transformer(self)

    def patches(self, series):
        """Target patches: (batch, leads, time) -> (batch, ..., tokens, target_width)."""
        return self.encoder.patchify(series)

    def decode(self, latent, restore):
        """Latents -> predicted patches, shaped like ``patches(series)``."""
        raise NotImplementedError

    def fill_masked(self, visible, restore):
        """Mask tokens at the masked places: (..., kept, width) -> (..., n, width)."""
        masked = restore.shape[-1] - visible.shape[-2]
        tokens = self.mask_embedding.expand(*visible.shape[:-2], masked, visible.shape[-1])
        return take(torch.cat([visible, tokens], dim=-2), restore)

    def run_decoder(self, tokens):
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_head(self.decoder_norm(tokens))

    def loss(self, target, pred, mask):
        """Mean squared error of a patch, averaged over the masked patches."""
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        error = (pred.to(target.dtype) - target).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def prepare(self, batch):
        """With "noise", uniform masking noise, one number a token, from the samples' own random
        numbers where there are any.
        """
        if "noise" in batch:
            return batch
        series, shape = batch["signal"], self.patches(batch["signal"]).shape[1:-1]
        random = batch.get("random")
        noise = (
            random.uniform(*shape)
            if random
            else torch.rand(len(series), *shape, device=series.device)
        )
        return {**batch, "noise": noise}

    def forward(self, batch, mask_ratio=None, noise=None):
        """{"loss", "pred" (batch, ..., tokens, target_width), "mask" (batch, ..., tokens), 1
        where masked}.

        Args:
            batch: the contract's, or its signal (batch, leads, time) alone.
            mask_ratio: in place of the model's own; noise: in place of the batch's own.
        """
        batch = batch if isinstance(batch, dict) else {"signal": batch}
        series = batch["signal"]
        target = self.patches(series)
        if noise is None:
            noise = self.prepare(batch)["noise"]
        keep, restore, mask = draw_mask(
            noise, self.mask_ratio if mask_ratio is None else mask_ratio
        )
        pred = self.decode(self.encoder.tokens(series, keep), restore)
        return {"loss": self.loss(target, pred, mask), "pred": pred, "mask": mask}

    def reconstruct(self, batch):
        """As in the contract.  Visible patches of the reconstruction are the decoder's output as
        well; with norm_pix_loss each patch is scaled back by the target's mean and standard
        deviation.
        """
        out, signal = self(batch), batch["signal"]
        target, pred = self.patches(signal), out["pred"].float()
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            pred = pred * (variance + 1e-6).sqrt() + mean
        mask = out["mask"][..., None].expand(target.shape)
        return signal, self.unpatch(pred), self.unpatch(mask) > 0.5

    def unpatch(self, patches):
        """Inverse of ``patches``."""
        raise NotImplementedError


def mae_factory(model_class, encoder_class, name, patch_size=75):
    """A registered function <method>_vit_<one of SIZES>_<one of DECODERS>: a method with its
    encoder.
    """
    size, decoder = name.split("_")[-2:]

    def factory(
        *,
        seq_len=2250,
        patch_size=patch_size,
        num_leads=12,
        leads=None,
        norm_pix_loss=True,
        mask_ratio=0.75,
        drop_path_rate=0.0,
    ):
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
        f"{model_class.__name__} with a {size} encoder {SIZES[size]} and decoder "
        f"{DECODERS[decoder]}."
    )
    return register(factory)

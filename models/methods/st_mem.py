"""ST-MEM: spatio-temporal masked ECG modelling (Na, Park, Tae, Joo, ICLR 2024, section 3).

Patches are masked in every lead independently; the encoder attends over what is left of all
leads; the small decoder rebuilds each lead alone, so what it needs from other leads must be in
the latents.  Masking, loss and ``forward`` are those of ``MaskedAutoencoder``.
"""

import torch
from einops import rearrange

from models.encoder.st_mem_vit import ST_MEM_ViT
from models.methods.mae import MaskedAutoencoder, mae_factory


class ST_MEM(MaskedAutoencoder):
    """A masked autoencoder with patches of single leads: pred (batch, leads, n, patch_size)."""

    def decode(self, latent: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        leads, n = restore.shape[1:]
        tokens = rearrange(self.to_decoder_embedding(latent), "b (l n) d -> b l n d", l=leads)
        left, visible, right = tokens[:, :, :1], tokens[:, :, 1:-1], tokens[:, :, -1:]
        tokens = torch.cat([left, self.fill_masked(visible, restore), right], dim=2)
        table = self.decoder_pos_embed  # (1, rows, width); the last row is the right separator's
        position = torch.cat([table[:, : n + 1], table[:, -1:]], dim=1)
        # Each lead alone, folded into the batch: one pass of the decoder serves all leads.
        tokens = rearrange(tokens + position, "b l n d -> (b l) n d")
        return rearrange(self.run_decoder(tokens)[:, 1:-1], "(b l) n p -> b l n p", l=leads)


st_mem_vit_base_dec256d4b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_base_dec256d4b")
st_mem_vit_small_dec256d4b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_small_dec256d4b")
st_mem_vit_tiny_dec128d2b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_tiny_dec128d2b")

"""ST-MEM: spatio-temporal masked ECG modelling (Na, Park, Tae, Joo, ICLR 2024, section 3).

Patches are masked in each lead independently.  The encoder attends over the visible patches of
all leads together.  The small decoder rebuilds each lead alone, so whatever it needs from other
leads has to be in the encoder's tokens.

Read ``MaskedAutoencoder`` (models/methods/mae.py) first: ``forward``, masking and loss are there.
"""

import torch
from einops import rearrange

from models.encoder.st_mem_vit import ST_MEM_ViT
from models.methods.mae import MaskedAutoencoder, mae_factory


class ST_MEM(MaskedAutoencoder):
    """A masked autoencoder with patches of single leads: pred (batch, leads, n, patch_size)."""

    def decode(self, latent: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        leads, n = restore.shape[1:]
        # Of each lead: a separator token, the visible patches, another separator.
        tokens = rearrange(self.to_decoder_embedding(latent), "b (l n) d -> b l n d", l=leads)
        left, visible, right = tokens[:, :, :1], tokens[:, :, 1:-1], tokens[:, :, -1:]
        tokens = torch.cat([left, self.fill_masked(visible, restore), right], dim=2)
        # Rows of the table: the left separator, the patches of the longest crop, the right one.
        table = self.decoder_pos_embed
        position = torch.cat([table[:, : n + 1], table[:, -1:]], dim=1)
        # Leads become part of the batch, so that the decoder attends within each lead alone.
        tokens = rearrange(tokens + position, "b l n d -> (b l) n d")
        return rearrange(self.run_decoder(tokens)[:, 1:-1], "(b l) n p -> b l n p", l=leads)


st_mem_vit_base_dec256d4b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_base_dec256d4b")
st_mem_vit_small_dec256d4b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_small_dec256d4b")
st_mem_vit_tiny_dec128d2b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_tiny_dec128d2b")

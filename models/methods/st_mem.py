"""ST-MEM: spatio-temporal masked ECG modelling (Na, Park, Tae, Joo, ICLR 2024, section 3).

Patches are masked in every lead on its own; the encoder attends over what is left of all leads;
the small decoder rebuilds each lead alone, so what it needs from other leads must be in the
latents.
"""

import torch
from einops import rearrange

from models.encoder.st_mem_vit import ST_MEM_ViT
from models.methods.mae import MaskedAutoencoder, mae_factory


class ST_MEM(MaskedAutoencoder):
    """Masked autoencoder with patches of single leads: pred (batch, leads, patches, patch_size)."""

    def __init__(self, encoder, **options):
        super().__init__(
            encoder,
            target_width=encoder.patch_size,
            positions=encoder.seq_len // encoder.patch_size,
            zero_rows_behind=1,
            **options,
        )

    def decode(self, latent, restore):
        """Each lead alone, folded into the batch: one pass of the decoder serves all leads."""
        leads, patches = restore.shape[1:]
        tokens = rearrange(self.to_decoder_embedding(latent), "b (l n) d -> b l n d", l=leads)
        middle = self.fill_masked(tokens[:, :, 1:-1], restore)
        tokens = torch.cat([tokens[:, :, :1], middle, tokens[:, :, -1:]], dim=2)
        position = torch.cat(
            [self.decoder_pos_embed[:, : patches + 1], self.decoder_pos_embed[:, -1:]], dim=1
        )
        tokens = rearrange(tokens + position, "b l n d -> (b l) n d")
        return rearrange(self.run_decoder(tokens)[:, 1:-1], "(b l) n p -> b l n p", l=leads)

    def unpatch(self, patches):
        return rearrange(patches, "b l n p -> b l (n p)")


st_mem_vit_base_dec256d4b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_base_dec256d4b")
st_mem_vit_small_dec256d4b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_small_dec256d4b")
st_mem_vit_tiny_dec128d2b = mae_factory(ST_MEM, ST_MEM_ViT, "st_mem_vit_tiny_dec128d2b")

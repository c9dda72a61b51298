"""MTAE: masked time autoencoder (Na et al., ICLR 2024, appendix): the same time patches are
masked in all leads.
"""

import torch
from einops import rearrange

from models.encoder.vit import ViT
from models.methods.mae import MaskedAutoencoder, mae_factory


class ClassTokenAutoencoder(MaskedAutoencoder):
    """Masked autoencoder whose encoder has a class token: MTAE here, MLAE in mlae.py."""

    def decode(self, latent, restore):
        tokens = self.to_decoder_embedding(latent)
        table = self.decoder_pos_embed
        tokens = torch.cat([tokens[:, :1], self.fill_masked(tokens[:, 1:], restore)], dim=1)
        position = torch.cat([table[0, :1], self.encoder.token_positions(table, restore.shape[1])])
        return self.run_decoder(tokens + position)[:, 1:]


class MTAE(ClassTokenAutoencoder):
    """pred (batch, patches, patch_size * leads); norm_pix_loss standardises over all leads of a
    patch together.
    """

    def __init__(self, encoder, **options):
        super().__init__(
            encoder,
            target_width=encoder.patch_size * len(encoder.known_leads),
            positions=encoder.seq_len // encoder.patch_size,
            **options,
        )

    def unpatch(self, patches):
        return rearrange(patches, "b n (p l) -> b l (n p)", l=len(self.encoder.known_leads))


mtae_vit_base_dec256d4b = mae_factory(MTAE, ViT, "mtae_vit_base_dec256d4b")
mtae_vit_small_dec256d4b = mae_factory(MTAE, ViT, "mtae_vit_small_dec256d4b")
mtae_vit_tiny_dec128d2b = mae_factory(MTAE, ViT, "mtae_vit_tiny_dec128d2b")

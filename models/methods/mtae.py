"""MTAE: masked time autoencoder (Na et al., ICLR 2024, appendix): the same time patches are
masked in all leads.
"""

from models.encoder.vit import ViT
from models.methods.mae import ClassTokenAutoencoder, mae_factory


class MTAE(ClassTokenAutoencoder):
    """A masked autoencoder with patches of all leads: pred (batch, n, patch_size * leads).

    norm_pix_loss standardises over all leads of a patch together.
    """


mtae_vit_base_dec256d4b = mae_factory(MTAE, ViT, "mtae_vit_base_dec256d4b")
mtae_vit_small_dec256d4b = mae_factory(MTAE, ViT, "mtae_vit_small_dec256d4b")
mtae_vit_tiny_dec128d2b = mae_factory(MTAE, ViT, "mtae_vit_tiny_dec128d2b")

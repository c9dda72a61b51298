"""MLAE: masked lead autoencoder (Na et al., ICLR 2024, appendix): whole leads are masked."""

from models.encoder.mlae_vit import MLAE_ViT
from models.methods.mae import ClassTokenAutoencoder, mae_factory


class MLAE(ClassTokenAutoencoder):
    """A masked autoencoder whose patches are leads: pred (batch, leads, seq_len).

    A lead has the position of its name in the encoder and in the decoder.
    """


mlae_vit_base_dec256d4b = mae_factory(MLAE, MLAE_ViT, "mlae_vit_base_dec256d4b", patch_size=1)
mlae_vit_small_dec256d4b = mae_factory(MLAE, MLAE_ViT, "mlae_vit_small_dec256d4b", patch_size=1)
mlae_vit_tiny_dec128d2b = mae_factory(MLAE, MLAE_ViT, "mlae_vit_tiny_dec128d2b", patch_size=1)

"""MLAE: masked lead autoencoder (Na et al., ICLR 2024, appendix): whole leads are masked."""

from models.encoder.mlae_vit import MLAE_ViT
from models.methods.mae import mae_factory
from models.methods.mtae import ClassTokenAutoencoder


class MLAE(ClassTokenAutoencoder):
    """pred (batch, leads, seq_len).  A lead has the position of its name in the encoder and in
    the decoder.
    """

    def __init__(self, encoder, **options):
        super().__init__(
            encoder,
            target_width=encoder.seq_len,
            positions=len(encoder.known_leads),
            tokens=len(encoder.leads),
            **options,
        )

    def unpatch(self, patches):
        return patches


mlae_vit_base_dec256d4b = mae_factory(MLAE, MLAE_ViT, "mlae_vit_base_dec256d4b", patch_size=1)
mlae_vit_small_dec256d4b = mae_factory(MLAE, MLAE_ViT, "mlae_vit_small_dec256d4b", patch_size=1)
mlae_vit_tiny_dec128d2b = mae_factory(MLAE, MLAE_ViT, "mlae_vit_tiny_dec128d2b", patch_size=1)

"""MLAE's encoder: a ViT with one token a lead (Na et al., ICLR 2024)."""

import torch

from models.encoder.vit import ClassTokenEncoder, encoder_factory
from util.errors import ConfigError


class MLAE_ViT(ClassTokenEncoder):
    """Tokens are whole leads of ``seq_len`` samples; a lead takes the position of its own name,
    whatever others are present.  Args: see ``TransformerEncoder``; ``patch_size`` counts leads
    and must be 1.
    """

    def __init__(self, *, num_classes=None, patch_size=1, **options):
        if patch_size != 1:
            raise ConfigError(f"MLAE's patch_size counts leads and must be 1, not {patch_size}")
        super().__init__(patch_size=1, **options)
        self._add_parts(len(self.known_leads), self.seq_len, num_classes)

    def adapt_leads(self, state, leads=None):
        table = state.get("pos_embedding")
        if table is None or table.ndim != 3 or table.shape[1] < 2:
            return state
        rows = self.rows_in_file(table.shape[1] - 1, leads)
        return {**state, "pos_embedding": table[:, [0, *(row + 1 for row in rows)]]}

    def patchify(self, series, leads=None):
        """The leads themselves, (batch, leads, seq_len)."""
        if series.shape[-1] != self.seq_len:
            raise ConfigError(
                f"MLAE takes exactly seq_len = {self.seq_len} samples, not {series.shape[-1]}"
            )
        self.input_leads(series, leads)
        return series

    def token_positions(self, table, count, leads=None):
        rows = self.lead_rows(self.leads if leads is None else leads)
        if rows == list(range(len(self.known_leads))):
            return table[0, 1:]
        return torch.stack([table[0, row + 1] for row in rows])


mlae_vit_base = encoder_factory(MLAE_ViT, "mlae_vit_base", "base", patch_size=1)
mlae_vit_small = encoder_factory(MLAE_ViT, "mlae_vit_small", "small", patch_size=1)
mlae_vit_tiny = encoder_factory(MLAE_ViT, "mlae_vit_tiny", "tiny", patch_size=1)

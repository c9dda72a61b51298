"""MLAE's encoder: a ViT with one token a lead (Na et al., ICLR 2024)."""
import torch
import torch.nn as nn
from einops import repeat

from models.blocks import patch_embedding
from models.encoder.vit import TransformerEncoder, encoder_factory
from util.errors import ConfigError


class MLAE_ViT(TransformerEncoder):
    """Tokens are whole leads of ``seq_len`` samples; the feature is the class token after the norm.

    Args: see ``TransformerEncoder``; ``patch_size`` counts leads and must be 1.  A lead takes the position of its own
    name, whatever other leads are present.
    """

    def __init__(self, *, num_classes=None, patch_size=1, **options):
        if patch_size != 1:
            raise ConfigError(f"MLAE's patch_size counts leads and must be 1, not {patch_size}")
        super().__init__(patch_size=1, **options)
        self.pos_embedding = nn.Parameter(torch.randn(1, len(self.known_leads) + 1, self.width))
        self.cls_embedding = nn.Parameter(torch.randn(self.width))
        self.to_patch_embedding = patch_embedding(self.seq_len, self.width)
        self._add_blocks(num_classes)

    def check_length(self, series):
        if series.shape[-1] != self.seq_len:
            raise ConfigError(f"MLAE takes exactly seq_len = {self.seq_len} samples, not {series.shape[-1]}")

    def adapt_leads(self, state, leads=None):
        table = state.get("pos_embedding")
        if table is None or table.ndim != 3 or table.shape[1] < 2:
            return state
        rows = self.rows_in_file(table.shape[1] - 1, leads)
        return {**state, "pos_embedding": table[:, [0, *(row + 1 for row in rows)]]}

    def lead_positions(self, table, rows):
        """Positions of these leads, (1, leads, width), from a table (1, 1 + known leads, width)."""
        if rows == list(range(len(self.known_leads))):
            return table[:, 1:]
        return torch.stack([table[:, row + 1] for row in rows], dim=1)

    def with_class_token(self, tokens):
        """Prepend the class token with its position (row 0)."""
        token = self.cls_embedding + self.pos_embedding[:, 0]
        return torch.cat([repeat(token, "1 d -> b 1 d", b=len(tokens)), tokens], dim=1)

    def forward_features(self, series, leads=None):
        self.check_length(series)
        rows = self.input_leads(series, leads)
        tokens = self.to_patch_embedding(series) + self.lead_positions(self.pos_embedding, rows)
        return self.norm(self.run_blocks(self.with_class_token(tokens))[:, 0])


mlae_vit_base = encoder_factory(MLAE_ViT, "mlae_vit_base", "base", patch_size=1)
mlae_vit_small = encoder_factory(MLAE_ViT, "mlae_vit_small", "small", patch_size=1)
mlae_vit_tiny = encoder_factory(MLAE_ViT, "mlae_vit_tiny", "tiny", patch_size=1)

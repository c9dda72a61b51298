"""ST-MEM's encoder: a ViT whose tokens are patches of single leads (Na et al., ICLR 2024).

Each lead's tokens stand between two separators and carry that lead's embedding, so the encoder
takes any set of leads.
"""

import torch
import torch.nn as nn
from einops import rearrange

from models.encoder.vit import TransformerEncoder, encoder_factory
from models.layers.blocks import patch_embedding


class ST_MEM_ViT(TransformerEncoder):
    """Tokens: every patch of every lead.  Feature: mean over leads and patches, then norm.
    Position row 0 is that of the separator in front of a lead, the last one of that behind it.
    Args: see ``TransformerEncoder``.
    """

    def __init__(self, *, num_classes=None, **options):
        super().__init__(**options)
        patches = self.seq_len // self.patch_size
        self.pos_embedding = nn.Parameter(torch.randn(1, patches + 2, self.width))
        self.sep_embedding = nn.Parameter(torch.randn(self.width))
        self.to_patch_embedding = patch_embedding(self.patch_size, self.width)
        self.lead_embeddings = nn.ParameterList(
            nn.Parameter(torch.randn(self.width)) for _ in self.known_leads
        )
        for lead, embedding in zip(self.known_leads, self.lead_embeddings):
            embedding.requires_grad_(
                lead in self.leads
            )  # the others get no gradient, and DDP would wait for it
        self._add_blocks(num_classes)

    def adapt_leads(self, state, leads=None):
        count = 0
        while f"lead_embeddings.{count}" in state:
            count += 1
        if not count:
            return state
        rows = self.rows_in_file(count, leads)
        shared = {
            name: value for name, value in state.items() if not name.startswith("lead_embeddings.")
        }
        return shared | {
            f"lead_embeddings.{i}": state[f"lead_embeddings.{row}"] for i, row in enumerate(rows)
        }

    def patchify(self, series):
        """(batch, leads, time) -> (batch, leads, patches, patch_size)."""
        self.check_length(series)
        return rearrange(series, "b l (n p) -> b l n p", p=self.patch_size)

    def patch_tokens(self, tokens):
        return rearrange(tokens, "b (l n) d -> b l n d", l=len(self.leads))[:, :, 1:-1]

    def wrap_leads(self, tokens, rows):
        """(batch, leads, n, width) -> (batch, leads, n + 2, width): separators around each lead,
        the embedding of known lead ``rows[i]`` on all tokens of lead i.
        """
        shape = (*tokens.shape[:2], 1, self.width)
        left = (self.sep_embedding + self.pos_embedding[0, 0]).expand(shape)
        right = (self.sep_embedding + self.pos_embedding[0, -1]).expand(shape)
        lead = torch.stack([self.lead_embeddings[row] for row in rows])
        return torch.cat([left, tokens, right], dim=2) + lead[:, None]

    def encode(self, series, keep=None, leads=None):
        """As in ``TransformerEncoder``: lead by lead, its tokens (in the order of ``keep``)
        between separators.
        """
        rows = self.input_leads(series, leads)
        patches = self.patchify(series)
        tokens = self.embed(patches, self.pos_embedding[0, 1 : patches.shape[2] + 1], keep)
        return self.run_blocks(rearrange(self.wrap_leads(tokens, rows), "b l n d -> b (l n) d"))

    def forward_features(self, series, leads=None):
        tokens = rearrange(
            self.encode(series, leads=leads), "b (l n) d -> b l n d", l=series.shape[1]
        )
        return self.norm(tokens[:, :, 1:-1].mean(dim=(1, 2)))


st_mem_vit_base = encoder_factory(ST_MEM_ViT, "st_mem_vit_base", "base")
st_mem_vit_small = encoder_factory(ST_MEM_ViT, "st_mem_vit_small", "small")
st_mem_vit_tiny = encoder_factory(ST_MEM_ViT, "st_mem_vit_tiny", "tiny")

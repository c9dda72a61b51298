"""ST-MEM's encoder: a ViT whose tokens are patches of single leads (Na et al., ICLR 2024).

Each lead's tokens are between two separator tokens and carry that lead's embedding, so the encoder
takes any set of leads.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from einops import rearrange

from models.encoder.vit import TransformerEncoder, encoder_factory
from models.layers.blocks import patch_embedding, sincos_positions


class ST_MEM_ViT(TransformerEncoder):
    """A ViT with a token for every patch of every lead; its feature is the mean over leads and
    patches, then the norm.

    Row 0 of the position table is for the separator before a lead, the last one for that after it.

    Args:
        num_classes: width of the linear head; None for none.
        options: see ``TransformerEncoder``.
    """

    def __init__(self, *, num_classes: int | None = None, **options: Any):
        super().__init__(**options)
        self.pos_embedding = nn.Parameter(torch.randn(1, self.positions + 2, self.width))
        self.sep_embedding = nn.Parameter(torch.randn(self.width))
        self.to_patch_embedding = patch_embedding(self.patch_width, self.width)
        self.lead_embeddings = nn.ParameterList(
            nn.Parameter(torch.randn(self.width)) for _ in self.known_leads
        )
        for lead, embedding in zip(self.known_leads, self.lead_embeddings):
            # the others get no gradient, and DDP would wait for it
            embedding.requires_grad_(lead in self.leads)
        self._add_blocks(num_classes)

    @property
    def patch_width(self) -> int:
        return self.patch_size

    def position_table(self, width: int) -> torch.Tensor:
        return sincos_positions(width, self.positions, zero_rows_behind=1)

    def adapt_leads(
        self, state: dict[str, torch.Tensor], leads: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
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

    def patchify(self, series: torch.Tensor) -> torch.Tensor:
        """Return the patches (batch, leads, n, patch_size) of crops (batch, leads, time)."""
        self.check_length(series)
        return rearrange(series, "b l (n p) -> b l n p", p=self.patch_size)

    def unpatchify(self, patches: torch.Tensor) -> torch.Tensor:
        return rearrange(patches, "b l n p -> b l (n p)")

    def patch_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        return rearrange(tokens, "b (l n) d -> b l n d", l=len(self.leads))[:, :, 1:-1]

    def wrap_leads(self, tokens: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Return tokens (batch, leads, n + 2, width): those given, (batch, leads, n, width), with
        a separator on either side of each lead, and the embedding of known lead ``rows[i]`` on
        all tokens of lead i.
        """
        shape = (*tokens.shape[:2], 1, self.width)
        left = (self.sep_embedding + self.pos_embedding[0, 0]).expand(shape)
        right = (self.sep_embedding + self.pos_embedding[0, -1]).expand(shape)
        lead = torch.stack([self.lead_embeddings[row] for row in rows])
        return torch.cat([left, tokens, right], dim=2) + lead[:, None]

    def encode(
        self,
        series: torch.Tensor,
        keep: torch.Tensor | None = None,
        leads: Sequence[str] | None = None,
    ) -> torch.Tensor:
        """Return what leaves the last block, lead by lead: its tokens, in the order of ``keep``
        (batch, leads, kept), between separators.
        """
        rows = self.input_leads(series, leads)
        patches = self.patchify(series)
        position = self.patch_positions(self.pos_embedding, patches.shape[2])
        tokens = self.wrap_leads(self.embed(patches, position, keep), rows)
        return self.run_blocks(rearrange(tokens, "b l n d -> b (l n) d"))

    def forward_features(
        self, series: torch.Tensor, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        tokens = rearrange(
            self.encode(series, leads=leads), "b (l n) d -> b l n d", l=series.shape[1]
        )
        return self.norm(tokens[:, :, 1:-1].mean(dim=(1, 2)))


st_mem_vit_base = encoder_factory(ST_MEM_ViT, "st_mem_vit_base", "base")
st_mem_vit_small = encoder_factory(ST_MEM_ViT, "st_mem_vit_small", "small")
st_mem_vit_tiny = encoder_factory(ST_MEM_ViT, "st_mem_vit_tiny", "tiny")

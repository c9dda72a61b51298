"""MLAE's encoder: a ViT with one token a lead (Na et al., ICLR 2024)."""

from collections.abc import Sequence
from typing import Any

import torch

from models.encoder.vit import ClassTokenEncoder, encoder_factory
from util.errors import ConfigError


class MLAE_ViT(ClassTokenEncoder):
    """A ViT whose patches are whole leads of ``seq_len`` samples.

    A lead takes the position of its name, whatever others are present.

    Args:
        patch_size: counts leads and must be 1.
        options: see ``ClassTokenEncoder``.
    """

    in_time = False

    def __init__(self, *, patch_size: int = 1, **options: Any):
        if patch_size != 1:
            raise ConfigError(f"MLAE's patch_size counts leads and must be 1, not {patch_size}")
        super().__init__(patch_size=1, **options)

    @property
    def patch_width(self) -> int:
        return self.seq_len

    @property
    def positions(self) -> int:
        return len(self.known_leads)

    def patch_count(self, samples: int) -> int:
        return len(self.leads)

    def adapt_leads(
        self, state: dict[str, torch.Tensor], leads: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        table = state.get("pos_embedding")
        if table is None or table.ndim != 3 or table.shape[1] < 2:
            return state
        rows = self.rows_in_file(table.shape[1] - 1, leads)
        return {**state, "pos_embedding": table[:, [0, *(row + 1 for row in rows)]]}

    def input_patches(
        self, series: torch.Tensor, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        """Return the leads themselves, (batch, leads, seq_len)."""
        if series.shape[-1] != self.seq_len:
            raise ConfigError(
                f"MLAE takes exactly seq_len = {self.seq_len} samples, not {series.shape[-1]}"
            )
        self.input_leads(series, leads)
        return series

    def unpatchify(self, patches: torch.Tensor) -> torch.Tensor:
        return patches

    def patch_positions(
        self, table: torch.Tensor, count: int, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        rows = self.lead_rows(self.leads if leads is None else leads)
        if rows == list(range(len(self.known_leads))):
            return table[0, 1:]
        return torch.stack([table[0, row + 1] for row in rows])


mlae_vit_base = encoder_factory(MLAE_ViT, "mlae_vit_base", "base", patch_size=1)
mlae_vit_small = encoder_factory(MLAE_ViT, "mlae_vit_small", "small", patch_size=1)
mlae_vit_tiny = encoder_factory(MLAE_ViT, "mlae_vit_tiny", "tiny", patch_size=1)

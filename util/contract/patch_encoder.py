"""What masked methods (ST-MEM, MTAE, MLAE, JEPA) rely on in an encoder."""

from collections.abc import Sequence

import torch
from torch import nn

from util.contract.encoder import Encoder


class PatchEncoder(Encoder):
    """An encoder that cuts a crop into patches and can encode some of them alone.

    Its tokens are its patches, in the order of ``keep`` where that is given, and whatever it
    adds to them (class token, separators), which is never hidden.

    Attributes:
        seq_len: samples of the longest crop.
        depth: number of blocks.
        in_time: patches follow each other in time; false where a patch is a whole lead.
        to_patch_embedding: patches (..., patch_width) to tokens (..., width).
        pos_embedding: position table (1, rows, width), laid out as ``position_table``.
    """

    seq_len: int
    depth: int
    in_time: bool = True
    to_patch_embedding: nn.Module
    pos_embedding: nn.Parameter

    @property
    def patch_width(self) -> int:
        """Return the number of values in a patch."""
        raise NotImplementedError

    def patch_count(self, samples: int) -> int:
        """Return the number of patches in a crop of this many samples; where each lead has its own
        patches, the number per lead.
        """
        raise NotImplementedError

    def patchify(self, series: torch.Tensor) -> torch.Tensor:
        """Return the patches (batch, n, patch_width) of crops (batch, leads, time) in mV, or
        (batch, leads, n, patch_width) where each lead has its own.

        Raises:
            ConfigError: a length, or a number of leads, that the encoder cannot take.
        """
        raise NotImplementedError

    def unpatchify(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the crops (batch, leads, time) of which these are the patches."""
        raise NotImplementedError

    def patch_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what ``tokens`` gave, (batch, n, width), without class token and separators:
        (batch, patches, width), or (batch, leads, patches, width) where each lead has its own.
        """
        raise NotImplementedError

    def position_table(self, width: int) -> torch.Tensor:
        """Return sine-cosine positions (1, rows, width) for tokens of that width: a row for each
        position of a patch, and zeros for what is added to the patches.
        """
        raise NotImplementedError

    def patch_positions(
        self, table: torch.Tensor, count: int, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        """Return the rows (count, width) of a position table (1, rows, width) that belong to the
        ``count`` patches of a crop.

        Args:
            leads: names of the crop's leads; None for those that the encoder was built for.
        """
        return table[0, 1 : count + 1]

    def fix_positions(self) -> None:
        """Replace the position table by the sine-cosine one, which is not trained."""
        self.pos_embedding = nn.Parameter(self.position_table(self.width), requires_grad=False)

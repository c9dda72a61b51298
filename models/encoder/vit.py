"""Plain ViT over time patches of all leads together: the encoder of MTAE (Na et al., ICLR 2024).

Also home of ``TransformerEncoder``, what the three ViT encoders have in common.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
from einops import rearrange, repeat

from models.layers.blocks import Attention, Block, patch_embedding, sincos_positions, take
from util.contract.encoder import other_leads, pick_leads
from util.contract.patch_encoder import PatchEncoder
from util.contract.registry import register
from util.errors import CheckpointError, ConfigError
from util.leads import LEADS, parse_leads
from util.named_arguments import COUNT, RATE

# base and small as published; tiny is for laptops, demonstrations and tests
SIZES = {
    "base": {"width": 768, "depth": 12, "heads": 12},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "tiny": {"width": 192, "depth": 4, "heads": 3},
}


class TransformerEncoder(PatchEncoder):
    """Blocks, final norm, head and the bookkeeping of leads.

    A subclass registers its embeddings and then its blocks (``_add_blocks``), and writes
    ``encode`` and ``forward_features``.

    Args:
        seq_len: longest input, in samples, a multiple of ``patch_size``; shorter multiples are
            accepted.
        patch_size: samples a patch.
        num_leads: how many leads the encoder knows; 12 means all standard leads.
        leads: names of the input's leads (default: all that it knows).  With ``num_leads`` < 12
            it knows these alone.
        width: of the tokens.
        depth: number of blocks.
        heads: attention heads of each block.
        drop_out_rate, attn_drop_out_rate: of tokens and of attention weights.
        drop_path_rate: of the last block; it rises linearly from 0 at the first.

    Attributes:
        known_leads: the leads that this encoder has a place for.
        leads: those of its input, in input order: fewer where a 12-lead encoder is used with
            fewer.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        patch_size: int,
        num_leads: int,
        leads: str | Sequence[str] | None,
        width: int,
        depth: int,
        heads: int,
        drop_out_rate: float = 0.0,
        attn_drop_out_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if patch_size < 1 or seq_len < 1 or seq_len % patch_size:
            raise ConfigError(
                f"seq_len {seq_len} must be a positive multiple of patch_size {patch_size}"
            )
        self.leads = LEADS[: max(num_leads, 0)]
        if leads is not None:
            self.leads = parse_leads(leads, "model.leads")
        self.known_leads = LEADS if num_leads == len(LEADS) else self.leads
        if not self.leads or len(self.known_leads) != num_leads:
            raise ConfigError(
                f"num_leads {num_leads} does not fit the leads "
                f"{', '.join(self.leads) or '(none)'}: use {len(self.leads) or 1}, or 12 for an "
                "encoder that knows all leads"
            )
        self.seq_len, self.patch_size, self.width, self.depth = seq_len, patch_size, width, depth
        self._heads = heads
        self._block_options = [
            {
                "dropout": drop_out_rate,
                "attention_dropout": attn_drop_out_rate,
                "drop_path": drop_path_rate * i / max(depth - 1, 1),
            }
            for i in range(depth)
        ]
        self.dropout = nn.Dropout(drop_out_rate)

    def _add_blocks(self, num_classes: int | None) -> None:
        """Register what follows the embeddings, in the order of the published state dict."""
        for i, options in enumerate(self._block_options):
            self.add_module(f"block{i}", Block(self.width, self._heads, **options))
        self.norm = nn.LayerNorm(self.width)
        self.head = nn.Identity() if num_classes is None else nn.Linear(self.width, num_classes)

    def run_blocks(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens (batch, n, width) after all blocks, not yet through the final norm."""
        tokens = self.dropout(tokens)
        for i in range(self.depth):
            tokens = getattr(self, f"block{i}")(tokens)
        return tokens

    def attention(self, series: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        last = self.get_submodule(f"block{self.depth - 1}.attn.fn")
        assert isinstance(last, Attention)
        hook = last.register_forward_pre_hook(
            lambda module, given: seen.append(last.weights(given[0]))
        )
        try:
            self.encode(series)
        finally:
            hook.remove()
        return seen[0]

    @property
    def probed_layers(self) -> dict[str, nn.Module]:
        return {f"block{i}": self.get_submodule(f"block{i}") for i in range(self.depth)}

    def layer_mean(self, output: torch.Tensor) -> torch.Tensor:
        """Return the mean over tokens (batch, n, width)."""
        return output.mean(dim=1)

    def level_of(self, name: str) -> int:
        """Return the level of a parameter: each block is one, with the embeddings below them all;
        the final norm goes with the head (as in BEiT, Bao et al. 2022).
        """
        part = name.partition(".")[0]
        if part.startswith("block"):
            return self.depth - int(part.removeprefix("block"))
        return 0 if part in ("norm", "head") else self.depth + 1

    # ============ leads ============
    @property
    def input_names(self) -> tuple[str, ...]:
        return self.leads

    def input_leads(self, series: torch.Tensor, leads: Sequence[str] | None = None) -> list[int]:
        """Return which of ``known_leads`` the rows of crops (batch, leads, time) are."""
        names = self.leads if leads is None else parse_leads(leads, "leads")
        if series.shape[1] != len(names):
            raise ConfigError(
                f"the input has {series.shape[1]} leads but the encoder was built for {len(names)} "
                f"({', '.join(names)}); name the input's leads, e.g. leads=['II']"
            )
        return self.lead_rows(names)

    def lead_rows(self, leads: Sequence[str]) -> list[int]:
        """Return the places of these leads in ``known_leads``."""
        unknown = [lead for lead in leads if lead not in self.known_leads]
        if unknown:
            raise ConfigError(
                f"this encoder has no embedding for lead {', '.join(unknown)}; it knows "
                f"{', '.join(self.known_leads)}"
            )
        return [self.known_leads.index(lead) for lead in leads]

    def rows_in_file(self, count: int, leads: Sequence[str] | None) -> list[int]:
        """Return the places of this encoder's leads among those of a file.

        Args:
            count: how many leads the file knows.
            leads: their names; None for a published file, whose leads are the first standard
                ones.
        """
        # an encoder of all twelve knows them in the standard order, whichever it was trained on
        names = LEADS[:count] if leads is None or count == len(LEADS) else tuple(leads)
        missing = [lead for lead in self.known_leads if lead not in names]
        if missing or len(names) != count:
            raise CheckpointError(
                f"the file knows {count} leads ({', '.join(map(str, names))}), not lead "
                f"{', '.join(missing or self.known_leads)}; pre-train with it, or choose "
                "dataset.lead among them"
            )
        return [names.index(lead) for lead in self.known_leads]

    # ============ patches ============
    @property
    def positions(self) -> int:
        """Return the number of patches that have a position of their own."""
        return self.patch_count(self.seq_len)

    def patch_count(self, samples: int) -> int:
        return samples // self.patch_size

    def position_table(self, width: int) -> torch.Tensor:
        return sincos_positions(width, self.positions)

    def check_length(self, series: torch.Tensor) -> None:
        """Refuse lengths without a position for every patch."""
        time = series.shape[-1]
        if time % self.patch_size or not 0 < time <= self.seq_len:
            raise ConfigError(
                f"the input has {time} samples; it must be a multiple of patch_size = "
                f"{self.patch_size} and at most seq_len = {self.seq_len}"
            )

    def embed(
        self, patches: torch.Tensor, position: torch.Tensor, keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the tokens (batch, ..., n, width) of patches.

        Args:
            patches: (batch, ..., n, patch_width).
            position: (n, width).
            keep: indices (batch, ..., k) of the patches to embed alone.
        """
        if keep is not None:
            patches, position = take(patches, keep), position[keep]
        return self.to_patch_embedding(patches) + position

    # ============ forward ============
    def encode(
        self,
        series: torch.Tensor,
        keep: torch.Tensor | None = None,
        leads: Sequence[str] | None = None,
    ) -> torch.Tensor:
        """Return what leaves the last block (batch, n, width) for crops (batch, leads, time)."""
        raise NotImplementedError

    def tokens(self, series: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tokens as the contract says, after the norm, class token or separators
        included.
        """
        return self.norm(self.encode(series, keep))

    def forward_features(
        self, series: torch.Tensor, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        """Return features (batch, width) of crops (batch, leads, time) in mV.

        Args:
            leads: names of the crops' leads; None for those that the encoder was built for.
        """
        raise NotImplementedError

    def forward(self, series: torch.Tensor, leads: Sequence[str] | None = None) -> torch.Tensor:
        """Return logits (batch, num_classes), or features (batch, width) without a head; ``leads``
        as in ``forward_features``.
        """
        return self.head(self.forward_features(series, leads))


class ClassTokenEncoder(TransformerEncoder):
    """A transformer whose feature is its class token, after the norm; a subclass says how to make
    patches.

    Args:
        num_classes: width of the linear head; None for none.
        options: see ``TransformerEncoder``.
    """

    def __init__(self, *, num_classes: int | None = None, **options: Any):
        super().__init__(**options)
        # in the order of the published state dict
        self.pos_embedding = nn.Parameter(torch.randn(1, self.positions + 1, self.width))
        self.cls_embedding = nn.Parameter(torch.randn(self.width))
        self.to_patch_embedding = patch_embedding(self.patch_width, self.width)
        self._add_blocks(num_classes)

    def input_patches(
        self, series: torch.Tensor, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        """Return the patches (batch, n, patch_width) of crops whose leads have these names."""
        raise NotImplementedError

    def patchify(self, series: torch.Tensor) -> torch.Tensor:
        return self.input_patches(series)

    def patch_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 1:]

    def encode(
        self,
        series: torch.Tensor,
        keep: torch.Tensor | None = None,
        leads: Sequence[str] | None = None,
    ) -> torch.Tensor:
        patches = self.input_patches(series, leads)
        position = self.patch_positions(self.pos_embedding, patches.shape[1], leads)
        tokens = self.embed(patches, position, keep)
        # never masked
        first = repeat(self.cls_embedding + self.pos_embedding[:, 0], "1 d -> b 1 d", b=len(tokens))
        return self.run_blocks(torch.cat([first, tokens], dim=1))

    def forward_features(
        self, series: torch.Tensor, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        return self.norm(self.encode(series, leads=leads)[:, 0])


class ViT(ClassTokenEncoder):
    """A ViT whose patches are ``patch_size`` samples of all leads together.

    Leads that are missing from the input are filled with zeros, since every patch has a place
    for each lead.  Args: see ``ClassTokenEncoder``.
    """

    @property
    def patch_width(self) -> int:
        return self.patch_size * len(self.known_leads)

    def adapt_leads(
        self, state: dict[str, torch.Tensor], leads: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        weight = state.get("to_patch_embedding.2.weight")
        if leads is None or weight is None or weight.ndim != 2:
            return state
        # an encoder of all twelve knows them in the standard order, whichever it was trained on
        places = LEADS if weight.shape[1] == self.patch_size * len(LEADS) else tuple(leads)
        if not set(self.leads) <= set(leads) or set(self.known_leads) != set(places):
            raise other_leads(leads, self.leads)
        rows = [
            sample * len(places) + places.index(lead)
            for sample in range(self.patch_size)
            for lead in self.known_leads
        ]
        normed = {"to_patch_embedding.1.weight": 0, "to_patch_embedding.1.bias": 0}
        axes = {"to_patch_embedding.2.weight": 1, **normed}
        return pick_leads(state, axes, rows, self.patch_size * len(places))

    def input_patches(
        self, series: torch.Tensor, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        """Return the patches, sample-major, lead fastest."""
        self.check_length(series)
        rows = self.input_leads(series, leads)
        if rows != list(range(len(self.known_leads))):
            given = series
            series = given.new_zeros(len(given), len(self.known_leads), given.shape[2])
            series[:, rows] = given
        return rearrange(series, "b l (n p) -> b n (p l)", p=self.patch_size)

    def unpatchify(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the crops, whose leads are those of the input in their order."""
        known = rearrange(patches, "b n (p l) -> b l (n p)", l=len(self.known_leads))
        return known[:, self.lead_rows(self.leads)]


class MeanViT(ViT):
    """As ``ViT``, but its feature is the mean over its patches' tokens, as JEPA's is; its class
    token is a register.
    """

    def forward_features(
        self, series: torch.Tensor, leads: Sequence[str] | None = None
    ) -> torch.Tensor:
        return self.patch_tokens(self.norm(self.encode(series, leads=leads))).mean(dim=1)


def encoder_factory(
    encoder_class: type[PatchEncoder], name: str, size: str, patch_size: int = 75
) -> Callable[..., PatchEncoder]:
    """Return the registered function ``name`` that builds ``encoder_class`` in one of ``SIZES``.

    Args:
        patch_size: the function's default for the argument of that name.
    """

    def factory(
        *,
        num_classes: int | None = None,
        seq_len: int = 2250,
        patch_size: COUNT = patch_size,
        num_leads: int = 12,
        leads: str | list[str] | None = None,
        drop_out_rate: RATE = 0.0,
        attn_drop_out_rate: RATE = 0.0,
        drop_path_rate: RATE = 0.0,
    ) -> PatchEncoder:
        return encoder_class(
            num_classes=num_classes,
            seq_len=seq_len,
            patch_size=patch_size,
            num_leads=num_leads,
            leads=leads,
            drop_out_rate=drop_out_rate,
            attn_drop_out_rate=attn_drop_out_rate,
            drop_path_rate=drop_path_rate,
            **SIZES[size],
        )

    factory.__name__ = factory.__qualname__ = name
    factory.__module__ = encoder_class.__module__
    factory.__doc__ = f"Build {encoder_class.__name__} of {size} size: {SIZES[size]}."
    return register(factory)


vit_base = encoder_factory(ViT, "vit_base", "base")
vit_small = encoder_factory(ViT, "vit_small", "small")
vit_tiny = encoder_factory(ViT, "vit_tiny", "tiny")
mean_vit_base = encoder_factory(MeanViT, "mean_vit_base", "base")
mean_vit_small = encoder_factory(MeanViT, "mean_vit_small", "small")
mean_vit_tiny = encoder_factory(MeanViT, "mean_vit_tiny", "tiny")

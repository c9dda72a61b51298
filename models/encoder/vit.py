"""Plain ViT over time patches of all leads together: the encoder of MTAE (Na et al., ICLR 2024).

Also home of ``TransformerEncoder``, what the three ViT encoders have in common.
"""

import torch
import torch.nn as nn
from einops import rearrange, repeat

from models.layers.blocks import Block, patch_embedding, take
from util.contract.encoder import Encoder
from util.contract.registry import register
from util.errors import CheckpointError, ConfigError
from util.leads import LEADS, parse_leads

# base and small as published; tiny is for laptops, demonstrations and tests
SIZES = {
    "base": {"width": 768, "depth": 12, "heads": 12},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "tiny": {"width": 192, "depth": 4, "heads": 3},
}


class TransformerEncoder(Encoder):
    """Blocks, final norm, head and the bookkeeping of leads.

    ``known_leads`` are the leads this encoder has an embedding for; ``leads`` are those of its
    input, in input order: fewer where a 12-lead encoder is used with fewer.

    Args:
        seq_len: longest input, in samples, a multiple of ``patch_size``; shorter multiples are
            accepted.
        patch_size: samples a patch.
        num_leads: how many leads the encoder knows; 12 means all standard leads.
        leads: names of the input's leads (default: all that it knows).  With ``num_leads`` < 12
            it knows these alone.
        num_classes: width of the linear head; None for none.
    """

    def __init__(
        self,
        *,
        seq_len,
        patch_size,
        num_leads,
        leads,
        width,
        depth,
        heads,
        drop_out_rate=0.0,
        attn_drop_out_rate=0.0,
        drop_path_rate=0.0,
    ):
        super().__init__()
        if patch_size < 1 or seq_len < 1 or seq_len % patch_size:
            raise ConfigError(
                f"seq_len {seq_len} must be a positive multiple of patch_size {patch_size}"
            )
        self.leads = parse_leads(leads) if leads is not None else LEADS[: max(num_leads, 0)]
        self.known_leads = LEADS if num_leads == len(LEADS) else self.leads
        if not self.leads or len(self.known_leads) != num_leads:
            raise ConfigError(
                f"num_leads {num_leads} does not fit the leads "
                f"{', '.join(self.leads) or '(none)'}: use {len(self.leads) or 1}, or 12 for an "
                "encoder that knows all leads"
            )
        self.seq_len, self.patch_size, self.width, self.depth = seq_len, patch_size, width, depth
        self._block_options = [
            dict(
                dropout=drop_out_rate,
                attention_dropout=attn_drop_out_rate,
                drop_path=drop_path_rate * i / max(depth - 1, 1),
            )
            for i in range(depth)
        ]
        self._heads = heads
        self.dropout = nn.Dropout(drop_out_rate)

    def _add_blocks(self, num_classes):
        """Register what follows the embeddings, in the order of the published state dict."""
        for i, options in enumerate(self._block_options):
            setattr(self, f"block{i}", Block(self.width, self._heads, **options))
        self.norm = nn.LayerNorm(self.width)
        self.head = nn.Identity() if num_classes is None else nn.Linear(self.width, num_classes)

    def run_blocks(self, tokens):
        """(batch, tokens, width) through all blocks; no final norm."""
        tokens = self.dropout(tokens)
        for i in range(self.depth):
            tokens = getattr(self, f"block{i}")(tokens)
        return tokens

    def steps_below_head(self, name):
        """Each block is a level, with the embeddings below them all; the final norm goes with the
        head (as in BEiT, Bao et al. 2022).
        """
        part = name.partition(".")[0]
        if part.startswith("block"):
            return self.depth - int(part.removeprefix("block"))
        return 0 if part in ("norm", "head") else self.depth + 1

    def input_leads(self, series, leads=None):
        """Rows of ``known_leads`` that the input's rows are."""
        leads = self.leads if leads is None else parse_leads(leads)
        if series.shape[1] != len(leads):
            raise ConfigError(
                f"the input has {series.shape[1]} leads but the encoder was told of {len(leads)} "
                f"({', '.join(leads)}); name the input's leads, e.g. leads=['II']"
            )
        return self.lead_rows(leads)

    def lead_rows(self, leads):
        """Rows of ``known_leads`` that these leads are."""
        unknown = [lead for lead in leads if lead not in self.known_leads]
        if unknown:
            raise ConfigError(
                f"this encoder has no embedding for lead {', '.join(unknown)}; it knows "
                f"{', '.join(self.known_leads)}"
            )
        return [self.known_leads.index(lead) for lead in leads]

    def rows_in_file(self, count, leads):
        """Where this encoder's leads stand among the ``count`` that a file knows; ``leads`` names
        them, None for a published file, whose leads are the first standard ones.
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

    def check_length(self, series):
        """Refuse lengths without a position for every patch."""
        time = series.shape[-1]
        if time % self.patch_size or not 0 < time <= self.seq_len:
            raise ConfigError(
                f"the input has {time} samples; it must be a multiple of patch_size = "
                f"{self.patch_size} and at most seq_len = {self.seq_len}"
            )

    def patch_tokens(self, tokens):
        """What ``tokens`` gave, (batch, n, width), without class token and separators: (batch,
        ..., patches, width), patches in order of time; (batch, leads, patches, width) where every
        lead has its own.
        """
        raise ConfigError(
            f"{type(self).__name__} has no patches in time; choose vit, mean_vit or st_mem_vit"
        )

    def embed(self, patches, position, keep=None):
        """Patches (batch, ..., n, values) with positions (n, width) -> tokens, (batch, ..., n,
        width) or those at ``keep`` (batch, ..., k) alone.
        """
        if keep is not None:
            patches, position = take(patches, keep), position[keep]
        return self.to_patch_embedding(patches) + position

    def encode(self, series, keep=None, leads=None):
        """(batch, leads, time) -> what leaves the last block, (batch, n, width)."""
        raise NotImplementedError

    def tokens(self, series, keep=None):
        """As in the contract, each after the norm; class token or separators included."""
        return self.norm(self.encode(series, keep))

    def forward(self, series, leads=None):
        """(batch, leads, time) -> (batch, num_classes), or (batch, width) without a head;
        ``leads`` names the input's leads where they are not those that the encoder was built for.
        """
        return self.head(self.forward_features(series, leads))


class ClassTokenEncoder(TransformerEncoder):
    """A transformer whose feature is its class token, after the norm; a subclass says how to make
    patches.
    """

    def _add_parts(self, positions, patch_width, num_classes):
        """Register all parts, in the order of the published state dict."""
        self.pos_embedding = nn.Parameter(torch.randn(1, positions + 1, self.width))
        self.cls_embedding = nn.Parameter(torch.randn(self.width))
        self.to_patch_embedding = patch_embedding(patch_width, self.width)
        self._add_blocks(num_classes)

    def patchify(self, series, leads=None):
        """(batch, leads, time) -> (batch, n, values)."""
        raise NotImplementedError

    def token_positions(self, table, count, leads=None):
        """Positions of the ``count`` tokens, (count, width), from a table whose row 0 is the
        class token's.
        """
        return table[0, 1 : count + 1]

    def encode(self, series, keep=None, leads=None):
        patches = self.patchify(series, leads)
        tokens = self.embed(
            patches, self.token_positions(self.pos_embedding, patches.shape[1], leads), keep
        )
        first = repeat(
            self.cls_embedding + self.pos_embedding[:, 0], "1 d -> b 1 d", b=len(tokens)
        )  # never masked
        return self.run_blocks(torch.cat([first, tokens], dim=1))

    def forward_features(self, series, leads=None):
        return self.norm(self.encode(series, leads=leads)[:, 0])


class ViT(ClassTokenEncoder):
    """Tokens are ``patch_size`` samples of all leads together; leads that are missing from the
    input are filled with zeros, since every patch vector has a place for each lead.  Args: see
    ``TransformerEncoder``.
    """

    def __init__(self, *, num_classes=None, **options):
        super().__init__(**options)
        self._add_parts(
            self.seq_len // self.patch_size, self.patch_size * len(self.known_leads), num_classes
        )

    def patch_tokens(self, tokens):
        return tokens[:, 1:]

    def patchify(self, series, leads=None):
        """(batch, leads, time) -> (batch, patches, patch_size * known leads), sample-major, lead
        fastest.
        """
        self.check_length(series)
        rows = self.input_leads(series, leads)
        if rows != list(range(len(self.known_leads))):
            given, series = (
                series,
                series.new_zeros(len(series), len(self.known_leads), series.shape[2]),
            )
            series[:, rows] = given
        return rearrange(series, "b l (n p) -> b n (p l)", p=self.patch_size)


class MeanViT(ViT):
    """As ``ViT``, but its feature is the mean over its patches' tokens, as JEPA's is; its class
    token is a register.
    """

    def forward_features(self, series, leads=None):
        return self.patch_tokens(self.norm(self.encode(series, leads=leads))).mean(dim=1)


def encoder_factory(encoder_class, name, size, patch_size=75):
    """A registered function ``name`` that builds ``encoder_class`` in one of ``SIZES``."""

    def factory(
        *,
        num_classes=None,
        seq_len=2250,
        patch_size=patch_size,
        num_leads=12,
        leads=None,
        drop_out_rate=0.0,
        attn_drop_out_rate=0.0,
        drop_path_rate=0.0,
    ):
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
    factory.__doc__ = f"{encoder_class.__name__} of {size} size: {SIZES[size]}."
    return register(factory)


vit_base = encoder_factory(ViT, "vit_base", "base")
vit_small = encoder_factory(ViT, "vit_small", "small")
vit_tiny = encoder_factory(ViT, "vit_tiny", "tiny")
mean_vit_base = encoder_factory(MeanViT, "mean_vit_base", "base")
mean_vit_small = encoder_factory(MeanViT, "mean_vit_small", "small")
mean_vit_tiny = encoder_factory(MeanViT, "mean_vit_tiny", "tiny")

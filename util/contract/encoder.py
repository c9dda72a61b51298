"""What the rest of the project may rely on: encoders, self-supervised methods and the batches
they are given.

Everything is declared here with a default that does nothing, so that nobody has to ask a model
what it can do.
"""

import torch
from torch import nn

from util.errors import ConfigError
from util.signals.standardize import RecordMoments


class Recomputable(nn.Module):
    """A part of a model, such as a transformer block, whose activations may be computed again in
    the backward pass instead of being kept (``train.checkpoint_activations``).
    """


class Encoder(nn.Module):
    """Crops -> features; a classifier is one with a head.  A subclass sets ``width`` and ``head``
    (Identity for none) and writes ``forward_features``.
    """

    width: int
    head: nn.Module

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        """(batch, leads, time) in mV -> (batch, width)."""
        raise NotImplementedError

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """(batch, leads, time) -> logits (batch, classes), or features (batch, width) where there
        is no head.
        """
        return self.head(self.forward_features(series))

    def outputs(self, series: torch.Tensor) -> dict:
        """What training sees: {"logits": (batch, classes)}, and of some models "gate" (batch,
        branches) and "extra_logits", a list of logits whose losses are added.
        """
        return {"logits": self(series)}

    def tokens(self, series: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, leads, time) -> tokens (batch, n, width) before pooling; with ``keep`` (indices
        of tokens) of the kept ones alone, which is what masked methods train on.
        """
        raise ConfigError(
            f"{type(self).__name__} has no tokens to mask; choose an encoder of "
            "models/encoder/*vit.py"
        )

    @property
    def heads(self) -> dict[str, nn.Module]:
        """Parts that no pre-training knows, by attribute: what is trained first, not exported and
        not loaded.
        """
        return {"head": self.head}

    @property
    def classifiers(self) -> list[nn.Module]:
        """The heads that give logits: ``head``, then those of "extra_logits"."""
        return [self.head]

    def steps_below_head(self, name: str) -> int:
        """How many levels below the heads a parameter of this name lies, for learning rates by
        depth (``train.layer_decay``): 0 for heads, 1 for the level beneath them, and so on down
        to the input.  An encoder that says nothing else is one level.
        """
        return int(name.partition(".")[0] not in self.heads)

    @property
    def branches(self) -> dict[str, "Encoder"]:
        """Encoders that this one joins, by name."""
        return {}

    def adapt_leads(self, state: dict, leads: list[str] | None = None) -> dict:
        """The tensors of an encoder file, those of single leads picked for this encoder's;
        ``leads`` names the file's, None for a published one.
        """
        return state

    def standardizers(self) -> list:
        """(LeadStandardize, function from a crop to its input) of every standardisation in here."""
        return []

    @torch.no_grad()
    def fit_statistics(self, batches) -> None:
        """Fit the standardisations that no weights have brought along, in one pass over float32
        batches (batch, leads, time) in mV, one crop of each training record.  Reads nothing
        without any.
        """
        wanted = [
            (part, view, RecordMoments()) for part, view in self.standardizers() if not part.fitted
        ]
        for batch in batches if wanted else ():
            for part, view, moments in wanted:
                moments.update(view(batch.to(part.mean.device)))
        for part, _, moments in wanted:
            part.fit(moments)

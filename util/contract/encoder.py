"""What the rest of the project may rely on in an encoder.

Everything optional has a default here that does nothing, so that no caller has to check what an
encoder can do.  ``PatchEncoder`` and ``SequenceEncoder``, beside this file, add what masked and
predictive methods use.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from util.contract.facts import DataFacts
from util.errors import CheckpointError, ConfigError
from util.signals.standardize import LeadStandardize, RecordMoments

# a standardisation, and the function from a crop to what it standardises
Standardizer = tuple[LeadStandardize, Callable[[torch.Tensor], torch.Tensor]]


class Recomputable(nn.Module):
    """A part of a model, such as a transformer block, whose activations may be computed again in
    the backward pass instead of being kept (``train.checkpoint_activations``).
    """


class Encoder(nn.Module):
    """A network from crops to features, and from features to logits where it has a head.

    A subclass sets the attributes and writes ``forward_features``; the rest is optional.

    Attributes:
        width: length of the features.
        head: features to logits; ``nn.Identity()`` where there are no classes.
        facts: of the data that it was built for, as ``build`` knows them; None where it does not.
    """

    width: int
    head: nn.Module
    facts: DataFacts | None = None

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        """Return the features (batch, width) of crops (batch, leads, time) in mV."""
        raise NotImplementedError

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Return the logits (batch, classes) of crops (batch, leads, time) in mV, or their
        features (batch, width) where there is no head.
        """
        return self.head(self.forward_features(series))

    def outputs(self, series: torch.Tensor) -> dict[str, Any]:
        """Return what training sees of crops (batch, leads, time) in mV.

        Returns:
            "logits": (batch, classes).
            "gate": (batch, branches), of models that weigh their branches.
            "extra_logits": a list of further logits, whose losses are added.
        """
        return {"logits": self(series)}

    @property
    def token_width(self) -> int:
        """Return the width of the tokens."""
        return self.width

    def tokens(self, series: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tokens (batch, n, token_width) of crops (batch, leads, time), before pooling.

        Args:
            keep: indices of the patches to encode, the only ones that the encoder then sees;
                None for all.

        Raises:
            ConfigError: this encoder has no tokens.
        """
        raise ConfigError(
            f"{type(self).__name__} has no tokens to mask; choose an encoder of "
            "models/encoder/*vit.py"
        )

    def attention(self, series: torch.Tensor) -> torch.Tensor | None:
        """Return how the tokens of the last block attend to each other, (batch, heads, n, n), for
        crops (batch, leads, time): rows attend to columns and sum to 1.  None where none do.
        """
        return None

    @property
    def probed_layers(self) -> Mapping[str, nn.Module]:
        """Return the layers whose outputs a probe looks at, from the input up, by name; {} where
        the encoder does not say.
        """
        return {}

    def layer_mean(self, output: Any) -> torch.Tensor:
        """Return the features (batch, width) of what one of ``probed_layers`` gave: the mean over
        all places of (batch, width, ...).
        """
        return output.flatten(2).mean(dim=2)

    @property
    def fresh_parts(self) -> dict[str, nn.Module]:
        """Return the parts that pre-training does not train, by attribute: fine-tuning starts them
        at random, a linear probe trains only them, and ``encoder.pth`` leaves them out.
        """
        return {"head": self.head}

    @property
    def gated(self) -> bool:
        """Return whether ``outputs`` gives "gate"."""
        return False

    @property
    def classifiers(self) -> list[nn.Module]:
        """Return the heads that give logits: ``head``, then those of "extra_logits"."""
        return [self.head]

    @property
    def fresh_on_the_way(self) -> list[str]:
        """Return the names of the fresh parts that features pass through: a gate, a query."""
        heads = {module for head in self.classifiers for module in head.modules()}
        return [
            name
            for name, part in self.fresh_parts.items()
            if list(part.parameters()) and heads.isdisjoint(part.modules())
        ]

    def level_of(self, name: str) -> int:
        """Return the depth of a parameter, for learning rates by depth (``train.layer_decay``).

        Args:
            name: of the parameter, as in ``named_parameters``.

        Returns:
            0 for the fresh parts, 1 for the level beneath them, and so on down to the input; in a
            branch what that says.  An encoder that says nothing else is one level.
        """
        part, _, rest = name.partition(".")
        if part in self.branches:
            return self.branches[part].level_of(rest)
        return int(part not in self.fresh_parts)

    @property
    def branches(self) -> Mapping[str, "Encoder"]:
        """Return the encoders that this one joins, by name."""
        return {}

    @property
    def input_names(self) -> tuple[str, ...] | None:
        """Return the names of the leads of its input, in order; None where it does not know."""
        return self.facts.leads if self.facts else None

    @property
    def lead_axes(self) -> dict[str, int]:
        """Return which tensors, by name, have an entry for each lead of the input, and along which
        axis.
        """
        return {}

    def adapt_leads(
        self, state: dict[str, torch.Tensor], leads: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tensors of an encoder file with those of single leads picked for this
        encoder's leads.

        Args:
            state: tensors by name.
            leads: names of the file's leads; None where it does not say.

        Raises:
            CheckpointError: the file's leads are not this encoder's, or are in another order and
                ``lead_axes`` does not say what belongs to each.
        """
        if self.branches:
            return self._adapt_branches(state, leads)
        own = self.input_names
        if leads is None or own is None or tuple(leads) == own:
            return state
        if set(leads) != set(own) or not self.lead_axes:
            raise other_leads(leads, own)
        rows = [list(leads).index(lead) for lead in own]
        return pick_leads(state, self.lead_axes, rows, len(leads))

    def _adapt_branches(
        self, state: dict[str, torch.Tensor], leads: Sequence[str] | None
    ) -> dict[str, torch.Tensor]:
        adapted = dict(state)
        for name, branch in self.branches.items():
            names = [each for each in state if each.startswith(f"{name}.")]
            part = {each.removeprefix(f"{name}."): adapted.pop(each) for each in names}
            part = branch.adapt_leads(part, leads)
            adapted |= {f"{name}.{each}": value for each, value in part.items()}
        return adapted

    def standardizers(self) -> list[Standardizer]:
        """Return every standardisation of the input, each with the function from a crop to what
        it standardises.
        """
        return [part for branch in self.branches.values() for part in branch.standardizers()]

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[torch.Tensor]) -> None:
        """Fit, in one pass, the standardisations whose statistics were not loaded with weights.

        Args:
            batches: float32 (batch, leads, time) in mV, one crop of each training record; not
                read where nothing is to be fitted.
        """
        unfitted = [
            (part, view, RecordMoments()) for part, view in self.standardizers() if not part.fitted
        ]
        for batch in batches if unfitted else ():
            for part, view, moments in unfitted:
                moments.update(view(batch.to(part.mean.device)))
        for part, _, moments in unfitted:
            part.fit(moments)


def other_leads(there: Sequence[str], here: Sequence[str]) -> CheckpointError:
    """Return the error that a file was trained on other leads than an encoder is built for."""
    return CheckpointError(
        f"it was trained on the leads {', '.join(there)}, but this encoder takes "
        f"{', '.join(here)}, and nothing in it goes from one lead to another; go on with --set "
        f"'dataset.lead=[{', '.join(there)}]', or pre-train on the leads of dataset.lead"
    )


def pick_leads(
    state: dict[str, torch.Tensor], axes: Mapping[str, int], rows: list[int], count: int
) -> dict[str, torch.Tensor]:
    """Return tensors with their entries for single leads picked in another order.

    Args:
        state: tensors by name.
        axes: of which of them, along which axis.
        rows: which entry comes first, second ...
        count: of the entries; tensors that have another number stay as they are.
    """

    def picked(name: str, value: torch.Tensor) -> torch.Tensor:
        axis = axes.get(name)
        if axis is None or value.ndim <= axis or value.shape[axis] != count:
            return value
        return value.index_select(axis, torch.tensor(rows))

    return {name: picked(name, value) for name, value in state.items()}

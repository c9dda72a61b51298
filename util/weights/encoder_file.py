"""What a file of weights holds and says of itself: tensors, leads, sampling rate, training."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from util.contract.encoder import Encoder
from util.errors import CheckpointError, ConfigError
from util.leads import parse_leads
from util.weights import checkpoint
from util.weights.names import Part, find_part


@dataclass(frozen=True)
class EncoderFile:
    """The content of a file of weights.

    Attributes:
        path: of the file.
        content: all that it holds.
        leads: names of those that it was trained on, None if the file does not say.
        fs: sampling rate of its training in Hz, None if the file does not say.
    """

    path: Path
    content: dict[str, Any]
    leads: tuple[str, ...] | None
    fs: float | None

    def part(self, wanted: Collection[str]) -> Part:
        """Return the tensors with most of these names.

        Raises:
            CheckpointError: the file holds no tensors.
        """
        part = find_part(self.content, frozenset(wanted))
        if not part.state:
            raise CheckpointError(f"{self.path} holds no tensors")
        return part

    @property
    def unsaid(self) -> list[str]:
        """Return what the file does not say of its training, in words."""
        facts = {"leads": self.leads, "sampling rate": self.fs}
        return [name for name, value in facts.items() if value is None]

    def fit_to(self, encoder: Encoder, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return tensors of this file with those of single leads picked for an encoder's leads.

        Raises:
            CheckpointError: it was trained at another sampling rate, or on leads that the encoder
                cannot go without.
        """
        here = encoder.facts.fs if encoder.facts else None
        if here is not None and self.fs is not None and here != self.fs:
            raise CheckpointError(
                f"{self.path} was trained at {self.fs:g} Hz, but dataset.fs is {here:g} Hz: the "
                f"same heart would look to it as if it beat {self.fs / here:.2g} times as fast. "
                f"Go on with --set dataset.fs={self.fs:g} (and crops of as many seconds), or "
                f"pre-train at {here:g} Hz"
            )
        try:
            return encoder.adapt_leads(state, self.leads)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def said_of_leads(self, encoder: Encoder) -> str:
        """Return as the rest of a sentence which leads of an encoder this file never saw, which of
        its own leads have no use there, and what it does not say.
        """
        unsaid = " and ".join(self.unsaid)
        said = f"; the file does not say its {unsaid}" if unsaid else ""
        own = encoder.input_names
        if self.leads is None or own is None:
            return said
        unseen = [lead for lead in own if lead not in self.leads]
        idle = [lead for lead in self.leads if lead not in own]
        if unseen:
            said += (
                f"; note: it was trained on the leads {', '.join(self.leads)} alone, so what "
                f"belongs to lead {', '.join(unseen)} has never been trained"
            )
        if idle:
            said += f"; its leads {', '.join(idle)} have no use here"
        return said


def read_encoder(path: str | os.PathLike, what: str = "encoder file") -> EncoderFile:
    """Read a file of weights.

    Args:
        path: encoder.pth, a checkpoint of pre-training or fine-tuning, a state dict, or one in
            the wrappers and prefixes of other programs.
        what: it should be, for messages.

    Raises:
        CheckpointError: it is unreadable.
    """
    content = checkpoint.load(path, what)
    config = content.get("config")
    data = config.get("dataset") if isinstance(config, dict) else None
    data = data if isinstance(data, dict) else {}
    try:
        leads = content.get("leads") or data.get("lead")
        names = parse_leads(leads, "leads") if isinstance(leads, (str, list, tuple)) else None
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged or of another program: {error}") from None
    fs = content.get("fs") or data.get("fs")
    return EncoderFile(
        path=Path(path),
        content=content,
        leads=names,
        fs=float(fs) if isinstance(fs, (int, float)) else None,
    )


def check_numbers(
    path: str | os.PathLike, state: Mapping[str, Any], here: Mapping[str, torch.Tensor]
) -> None:
    """Refuse tensors that are no weights.

    Args:
        path: of their file, for messages.
        state: tensors by name.
        here: a model's, of which those of the same names are checked.

    Raises:
        CheckpointError: one is of whole numbers, or not finite; the message names it.
    """
    for name, own in here.items():
        value = state.get(name)
        if not isinstance(value, torch.Tensor) or not own.is_floating_point():
            continue
        problem = ""
        if value.layout is not torch.strided or not value.is_floating_point():
            problem = f"is of the type {str(value.dtype).removeprefix('torch.')}"
            cure = "take the weights before they were quantised or converted"
        elif not (finite := value.to(own.dtype).isfinite()).all():
            problem = f"holds NaN or inf ({int((~finite).sum())} of {finite.numel()} numbers)"
            cure = "that training had failed; take an earlier checkpoint"
        if problem:
            raise CheckpointError(f"{path}: the tensor {name} {problem}; {cure}")

"""Signal and spectrogram of the same crop, joined with or without a gate.

Phan, Le, Brijesh, Adjeroh, Wu, Jensen, Le, Multimodality multi-lead ECG arrhythmia classification
using self-supervised learning (BHI 2022, arXiv 2210.06297).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.encoder.cnn import classifier, init_from_scratch
from util.contract.encoder import Encoder
from util.contract.registry import register
from util.errors import ConfigError


class Fusion(Encoder):
    """Two encoders of one crop and a classifier of their joined features.

    Features s and p of the two branches give the concatenation [s, p]; with a gate g = softmax(W
    [s, p] + b), two numbers a crop, they give [g_0 s, g_1 p].  The classifier is Linear(width,
    512), Linear(512, classes).

    Args:
        signal, spectrogram: the encoders.
        gating: weigh the branches by a gate.
        three_head: classify each branch alone, too (from its features before the gate); the
            training loss is the sum of the three.
        num_classes: None for an encoder without heads.
        frozen: names of ``branches``, and "gate": these never learn, their BatchNorms keep their
            statistics.  A frozen gate is not fresh: it is loaded and exported with the branches.
        gate_norm: give the gate normalised features.
    """

    def __init__(
        self,
        signal: Encoder,
        spectrogram: Encoder,
        *,
        gating: bool,
        three_head: bool,
        num_classes: int | None,
        frozen: tuple[str, ...],
        gate_norm: bool = False,
    ):
        super().__init__()
        self.signal, self.spectrogram = signal, spectrogram
        self.width = signal.width + spectrogram.width
        self.gate = nn.Linear(self.width, 2) if gating else None
        self.head = classifier(self.width, 512, num_classes)
        self.extra_heads = nn.ModuleDict()
        if self.gate is not None:
            init_from_scratch(self.gate)
        if three_head:
            for name, branch in self.branches.items():
                self.extra_heads[name] = classifier(branch.width, 256, num_classes)
        self.frozen, self.gate_norm = frozen, gate_norm
        for name in frozen:
            self.get_submodule(name).requires_grad_(False)

    def train(self, mode: bool = True) -> "Fusion":
        """Set training or evaluation mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    @property
    def branches(self) -> dict[str, Encoder]:
        return {"signal": self.signal, "spectrogram": self.spectrogram}

    @property
    def fresh_parts(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {"head": self.head, "extra_heads": self.extra_heads}
        if self.gate is not None and "gate" not in self.frozen:
            parts["gate"] = self.gate
        return parts

    @property
    def gated(self) -> bool:
        return self.gate is not None

    @property
    def classifiers(self) -> list[nn.Module]:
        return [self.head, *self.extra_heads.values()]

    def _join(
        self, series: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]]:
        """Return the joined features (batch, width), the gate (batch, 2) or None, and the
        features of each branch by name.
        """
        alone = {name: branch.forward_features(series) for name, branch in self.branches.items()}
        if self.gate is None:
            return torch.cat(list(alone.values()), dim=1), None, alone
        shown = list(alone.values())
        if self.gate_norm:
            # Else the branch of larger features decides alone, the softmax saturates, and the
            # gate learns no more.
            shown = [self._normal(features) for features in shown]
        gate = self.gate(torch.cat(shown, dim=1)).softmax(dim=1)
        weights = gate.split(1, dim=1)
        joined = [weight * features for weight, features in zip(weights, alone.values())]
        return torch.cat(joined, dim=1), gate, alone

    @staticmethod
    def _normal(features: torch.Tensor) -> torch.Tensor:
        """Return features (batch, width) with each row of mean 0 and length 1, or a little less
        if it is almost constant.
        """
        # with variance 1, a length of 16 for 256 features, the softmax saturated as well
        return F.layer_norm(features, features.shape[1:]) / features.shape[1] ** 0.5

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        """Return the joined, and where there is a gate weighted, features (batch, width) of crops
        (batch, leads, time) in mV.
        """
        return self._join(series)[0]

    def outputs(self, series: torch.Tensor) -> dict[str, Any]:
        """Return what training sees: "logits" (batch, classes); with a gate "gate" (batch, 2),
        signal's weight first; with three heads "extra_logits".
        """
        # One call uses every parameter, as DistributedDataParallel asks.
        joined, gate, alone = self._join(series)
        result: dict[str, Any] = {"logits": self.head(joined)}
        if gate is not None:
            result["gate"] = gate
        if self.extra_heads:
            result["extra_logits"] = [head(alone[name]) for name, head in self.extra_heads.items()]
        return result


@register
def fusion(
    signal: Encoder = "xresnet1d50",  # type: ignore[assignment]  # its name: see ``build``
    spectrogram: Encoder = "spectrogram_se_resnet34",  # type: ignore[assignment]
    gating: bool = False,
    three_head: bool = False,
    num_classes: int | None = 24,
    frozen: list[str] | tuple[str, ...] = (),
    gate_norm: bool = False,
) -> Fusion:
    """Join a signal and a spectrogram branch.

    Args:
        signal, spectrogram: any two encoders.
        gating: weigh the branches by a learnt gate.
        three_head: classify each branch alone, too, and train the sum of the three losses.
        num_classes: classes of every head; None for an encoder without heads.
        frozen: which of signal, spectrogram and gate do not learn.  (train.freeze_epochs and
            mode linprobe freeze both branches together, for a few epochs or for all.)
        gate_norm: the gate sees the features of each branch normalised, so that neither
            dominates by its scale; false is as published.

    Raises:
        ConfigError: three heads without classes, a ``gate_norm`` without a gate, or a frozen part
            that does not exist.
    """
    if three_head and num_classes is None:
        raise ConfigError(
            "fusion: three_head needs num_classes; an encoder without classes has no heads"
        )
    if gate_norm and not gating:
        raise ConfigError(
            "fusion: gate_norm normalises what the gate sees, but there is none; set gating, too"
        )
    parts = ("signal", "spectrogram", *["gate"] * gating)
    if not isinstance(frozen, list | tuple) or not all(name in parts for name in frozen):
        raise ConfigError(f"fusion: frozen is {frozen!r}; give a list of {', '.join(parts)}")
    return Fusion(
        signal,
        spectrogram,
        gating=gating,
        three_head=three_head,
        num_classes=num_classes,
        frozen=tuple(frozen),
        gate_norm=gate_norm,
    )

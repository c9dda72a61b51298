"""Signal and spectrogram of the same crop, joined with or without a gate.

Phan, Le, Brijesh, Adjeroh, Wu, Jensen, Le, Multimodality multi-lead ECG arrhythmia classification
using self-supervised learning (BHI 2022, arXiv 2210.06297).
"""

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
    [s, p] + b), two numbers a crop, they give [g_0 s, g_1 p].  With ``gate_norm`` the gate sees s
    and p normalised, each to mean 0 over its features and length 1: else the branch of larger
    features decides alone, the softmax saturates, and the gate learns no more (with variance 1, a
    length of 16, it saturated as well).  The classifier is Linear(width, 512), Linear(512,
    classes).

    Args:
        signal, spectrogram: encoders, (batch, leads, time) -> ``forward_features`` -> (batch,
            their width).
        gating: weigh the branches by a gate; gate_norm: which sees normalised features.
        three_head: classify each branch alone, too (from its features before the gate); the
            training loss is the sum of the three.
        num_classes: None for an encoder without heads.
        frozen: names of ``branches``, and "gate": these never learn, their BatchNorms keep their
            statistics. A frozen gate is no head: it is loaded and exported with the branches.
    """

    def __init__(
        self,
        signal: Encoder,
        spectrogram: Encoder,
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
        if gating:
            init_from_scratch(self.gate)
        if three_head:
            self.extra_heads.update(
                {
                    name: classifier(branch.width, 256, num_classes)
                    for name, branch in self.branches.items()
                }
            )
        self.frozen, self.gate_norm = frozen, gate_norm
        for name in frozen:
            getattr(self, name).requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    @property
    def branches(self) -> dict[str, Encoder]:
        return {"signal": self.signal, "spectrogram": self.spectrogram}

    @property
    def heads(self) -> dict[str, nn.Module]:
        heads = {"head": self.head, "gate": self.gate, "extra_heads": self.extra_heads}
        return {
            name: part
            for name, part in heads.items()
            if part is not None and name not in self.frozen
        }

    @property
    def classifiers(self):
        return [self.head, *self.extra_heads.values()]

    def steps_below_head(self, name):
        """As in its branch; the gate goes with the heads."""
        branch, _, rest = name.partition(".")
        return self.branches[branch].steps_below_head(rest) if branch in self.branches else 0

    def standardizers(self):
        return [each for branch in self.branches.values() for each in branch.standardizers()]

    def _join(self, x):
        """Crop -> joined features (batch, width), gate (batch, 2) or None, features of each
        branch by name.
        """
        alone = {name: branch.forward_features(x) for name, branch in self.branches.items()}
        joined = torch.cat(list(alone.values()), dim=1)
        if self.gate is None:
            return joined, None, alone
        seen = (
            torch.cat([self._normal(part) for part in alone.values()], dim=1)
            if self.gate_norm
            else joined
        )
        gate = self.gate(seen).softmax(dim=1)
        scaled = [
            weight * features for weight, features in zip(gate.split(1, dim=1), alone.values())
        ]
        return torch.cat(scaled, dim=1), gate, alone

    @staticmethod
    def _normal(features):
        """(batch, width) -> the same, each row of mean 0 and length 1, or a little less if it is
        almost constant.
        """
        return F.layer_norm(features, features.shape[1:]) / features.shape[1] ** 0.5

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Crop (batch, leads, time) in mV -> joined, and where there is a gate weighted, features
        (batch, width).
        """
        return self._join(x)[0]

    def outputs(self, x: torch.Tensor) -> dict:
        """Crop (batch, leads, time) in mV -> "logits" (batch, classes); with a gate "gate"
        (batch, 2), signal's weight first; with three heads "extra_logits".  One call uses every
        parameter, as DistributedDataParallel asks.
        """
        joined, gate, alone = self._join(x)
        result = {"logits": self.head(joined)}
        if gate is not None:
            result["gate"] = gate
        if self.extra_heads:
            result["extra_logits"] = [head(alone[name]) for name, head in self.extra_heads.items()]
        return result


@register
def fusion(
    signal: Encoder = "xresnet1d50",
    spectrogram: Encoder = "spectrogram_se_resnet34",
    gating: bool = False,
    three_head: bool = False,
    num_classes: int | None = 24,
    frozen: list = (),
    gate_norm: bool = False,
) -> Fusion:
    """Signal and spectrogram branch joined.

    Args:
        signal, spectrogram: any two encoders.
        gating: weigh the branches by a learnt gate.
        three_head: classify each branch alone, too, and train the sum of the three losses.
        num_classes: classes of every head; None for an encoder without heads.
        frozen: which of signal, spectrogram and gate shall not learn.  (train.freeze_epochs and
            mode linprobe freeze both branches together, for some epochs or for all.)
        gate_norm: the gate sees the features of each branch normalised, so that neither rules by
            their scale; false is as published.

    Raises:
        ConfigError: three heads without classes, a ``gate_norm`` without a gate, or a frozen part
            that there is not.
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
    return Fusion(signal, spectrogram, gating, three_head, num_classes, tuple(frozen), gate_norm)

"""Signal and spectrogram of the same crop, joined with or without a gate.

Phan, Le, Brijesh, Adjeroh, Wu, Jensen, Le, Multimodality multi-lead ECG arrhythmia classification using
self-supervised learning (BHI 2022, arXiv 2210.06297).
"""
import torch
from torch import nn

from models.encoder.cnn import classifier, init_from_scratch
from models.encoder.standardize import fit_statistics
from models.registry import build_model, register
from util.errors import ConfigError


class Fusion(nn.Module):
    """Two encoders of one crop and a classifier of their joined features.

    Features s and p of the two branches give the concatenation [s, p]; with a gate g = softmax(W [s, p] + b), two
    numbers a crop, they give [g_0 s, g_1 p].  The classifier is Linear(width, 512), Linear(512, classes).

    Args:
        signal, spectrogram: encoders, (batch, leads, time) -> ``forward_features`` -> (batch, their width).
        gating: weigh the branches by a gate.
        three_head: classify each branch alone, too (from its features before the gate); the training loss is the
            sum of the three.
        num_classes: None for an encoder without heads.
    """

    returns_all = True  # tells the engine that forward takes return_all

    def __init__(self, signal: nn.Module, spectrogram: nn.Module, gating: bool, three_head: bool,
                 num_classes: int | None):
        super().__init__()
        self.signal, self.spectrogram = signal, spectrogram
        self.width = signal.width + spectrogram.width
        self.gate = nn.Linear(self.width, 2) if gating else None
        self.head = classifier(self.width, 512, num_classes)
        self.extra_heads = nn.ModuleDict()
        if gating:
            init_from_scratch(self.gate)
        if three_head:
            self.extra_heads.update({name: classifier(branch.width, 256, num_classes)
                                     for name, branch in self.branches.items()})

    @property
    def branches(self) -> dict[str, nn.Module]:
        """The two encoders by name, to load pre-trained weights into or to freeze."""
        return {"signal": self.signal, "spectrogram": self.spectrogram}

    def fit_statistics(self, batches) -> None:
        """Fit the standardisation of the branches that have one, in a single pass; arguments as in CNNEncoder."""
        fit_statistics([branch for branch in self.branches.values() if hasattr(branch, "standardize")], batches)

    def _join(self, x):
        """Crop -> joined features (batch, width), gate (batch, 2) or None, features of each branch by name."""
        alone = {name: branch.forward_features(x) for name, branch in self.branches.items()}
        joined = torch.cat(list(alone.values()), dim=1)
        if self.gate is None:
            return joined, None, alone
        gate = self.gate(joined).softmax(dim=1)
        scaled = [weight * features for weight, features in zip(gate.split(1, dim=1), alone.values())]
        return torch.cat(scaled, dim=1), gate, alone

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Crop (batch, leads, time) in mV -> joined, and where there is a gate weighted, features (batch, width)."""
        return self._join(x)[0]

    def forward(self, x: torch.Tensor, return_all: bool = False) -> torch.Tensor | dict:
        """Crop (batch, leads, time) in mV -> logits (batch, classes).

        With ``return_all``, as in training, a dict: "logits"; with a gate "gate" (batch, 2), signal's weight first;
        with three heads "extra_logits", a list of logits whose losses are added to that of "logits".  One call uses
        every parameter, as DistributedDataParallel asks.
        """
        joined, gate, alone = self._join(x)
        logits = self.head(joined)
        if not return_all:
            return logits
        result = {"logits": logits}
        if gate is not None:
            result["gate"] = gate
        if self.extra_heads:
            result["extra_logits"] = [head(alone[name]) for name, head in self.extra_heads.items()]
        return result


def _branch(role: str, default: str, settings: dict | None) -> nn.Module:
    """The encoder that a fusion's ``signal:`` or ``spectrogram:`` asks for, without a head of its own."""
    if not isinstance(settings, dict | None):
        raise ConfigError(f"fusion.{role} is '{settings}'; write it as a mapping, {{name: {default}}}")
    settings = {"name": default, **(settings or {})}
    if "num_classes" in settings:
        raise ConfigError(f"fusion.{role}: a branch has no num_classes; set the fusion's own")
    branch = build_model(**settings, num_classes=None)
    if hasattr(branch, "fit_statistics") and not hasattr(branch, "standardize"):
        raise ConfigError(f"fusion.{role}: {settings['name']} has fit_statistics but not the standardize and "
                          "unstandardized by which a fusion fits two branches in one pass; see CNNEncoder")
    return branch


@register
def fusion(signal: dict | None = None, spectrogram: dict | None = None, gating: bool = False,
           three_head: bool = False, num_classes: int | None = 24) -> Fusion:
    """Signal and spectrogram branch joined.

    Args:
        signal: {name: any encoder of the registry, **its arguments}; xresnet1d50 unless named.
        spectrogram: the same; spectrogram_se_resnet34 unless named.
        gating: weigh the branches by a learnt gate.
        three_head: classify each branch alone, too, and train the sum of the three losses.
        num_classes: classes of every head; None for an encoder without heads.

    Raises:
        ConfigError: unknown encoder or argument, or three heads without classes.
    """
    if three_head and num_classes is None:
        raise ConfigError("fusion: three_head needs num_classes; an encoder without classes has no heads")
    return Fusion(_branch("signal", "xresnet1d50", signal),
                  _branch("spectrogram", "spectrogram_se_resnet34", spectrogram), gating, three_head, num_classes)

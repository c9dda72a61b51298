"""What the two CNN branches share: weights from scratch, the classifier, and the shell of an
encoder.
"""

import torch
from torch import nn

from util.contract.encoder import Encoder, Standardizer
from util.errors import ConfigError
from util.signals.standardize import LeadStandardize

STARTS = ("shortcut", "published")  # what ``init`` of a CNN may be


class ResidualBlock(nn.Module):
    """A block of a residual network: something of its input, added to a shortcut."""

    @property
    def last_norm(self) -> nn.Module:
        """Return the BatchNorm whose zero makes this block its shortcut."""
        raise NotImplementedError


def init_from_scratch(network: nn.Module, init: str = "shortcut") -> None:
    """Start a network's weights: Xavier normal for convolutions and linears, N(1, 0.02) for
    weights of BatchNorm and zero for its biases; biases of linears stay as PyTorch starts them.

    Args:
        network: changed in place.
        init: "shortcut": the ``last_norm`` of every residual block starts at zero, so the block
            as its shortcut (Goyal et al., Accurate, large minibatch SGD, 2017, section 5.1).
            "published": N(1, 0.02) there, too, and N(0, 1) for biases of convolutions, as Phan et
            al. (BHI 2022) start from scratch, in SimCLR and in DINO.  Their BYOL keeps the zeros.

    Raises:
        ConfigError: another ``init``.
    """
    if init not in STARTS:
        raise ConfigError(f"model init: {init!r} is not one of {', '.join(STARTS)}")
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias) if init == "published" else nn.init.zeros_(module.bias)
    for module in network.modules():
        if init == "shortcut" and isinstance(module, ResidualBlock):
            nn.init.zeros_(module.last_norm.get_parameter("weight"))


def classifier(width: int, hidden: int, num_classes: int | None) -> nn.Module:
    """Return Linear(width, hidden), Linear(hidden, classes) with no activation between, as
    published; Identity without classes.
    """
    if num_classes is None:
        return nn.Identity()
    head = nn.Sequential(nn.Linear(width, hidden), nn.Linear(hidden, num_classes))
    init_from_scratch(head)
    return head


class CNNEncoder(Encoder):
    """The shell of an encoder that standardises its input by the training records' statistics.

    A subclass sets ``stages``, the residual blocks by depth, besides what an ``Encoder`` requires.

    Args:
        num_leads: leads of the crops, (batch, num_leads, time) in mV.

    Attributes:
        first_weight: name of the weight that joins the leads, (channels, leads, ...).
    """

    stages: nn.Sequential
    first_weight: str

    def __init__(self, num_leads: int):
        super().__init__()
        self.standardize = LeadStandardize(num_leads)

    def unstandardized(self, x: torch.Tensor) -> torch.Tensor:
        """Return what ``standardize`` is fed and fitted on: the crop itself, (batch, leads,
        time).
        """
        return x

    @property
    def probed_layers(self) -> dict[str, nn.Module]:
        return {f"stage{i}": stage for i, stage in enumerate(self.stages)}

    def level_of(self, name: str) -> int:
        """Return the level of a parameter: each of ``stages`` is one, with the stem below them
        all.
        """
        part, number = f"{name}.".split(".")[:2]
        if part == "stages":
            return len(self.stages) - int(number)
        return 0 if part == "head" else len(self.stages) + 1

    @property
    def lead_axes(self) -> dict[str, int]:
        return {"standardize.mean": 0, "standardize.std": 0, self.first_weight: 1}

    def standardizers(self) -> list[Standardizer]:
        return [(self.standardize, self.unstandardized)]

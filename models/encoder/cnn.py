"""What the two CNN branches share: weights from scratch, the classifier, and the shell of an encoder."""
import torch
from torch import nn

from models.contract import Encoder
from models.standardize import LeadStandardize

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
XAVIER = (nn.Conv1d, nn.Conv2d, nn.Linear)


def init_from_scratch(network: nn.Module) -> None:
    """Xavier normal for convolutions and linears, BatchNorm weight N(1, 0.02), biases zero."""
    for module in network.modules():
        if isinstance(module, XAVIER):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, BATCH_NORMS):
            nn.init.normal_(module.weight, 1.0, 0.02)
        if isinstance(module, XAVIER + BATCH_NORMS) and module.bias is not None:
            nn.init.zeros_(module.bias)


def classifier(width: int, hidden: int, num_classes: int | None) -> nn.Module:
    """Linear(width, hidden), Linear(hidden, classes) with no activation between, as published; Identity without
    classes."""
    if num_classes is None:
        return nn.Identity()
    head = nn.Sequential(nn.Linear(width, hidden), nn.Linear(hidden, num_classes))
    init_from_scratch(head)
    return head


class CNNEncoder(Encoder):
    """Shell of an encoder that standardises its own input by the training records' statistics.

    Args:
        num_leads: leads of the crops, (batch, num_leads, time) in mV.
    """

    def __init__(self, num_leads: int):
        super().__init__()
        self.standardize = LeadStandardize(num_leads)

    def unstandardized(self, x: torch.Tensor) -> torch.Tensor:
        """What ``standardize`` is fed and fitted on: the crop itself, (batch, leads, time)."""
        return x

    def standardizers(self):
        return [(self.standardize, self.unstandardized)]

"""CPC: contrastive predictive coding (van den Oord, Li, Vinyals 2018; on ECGs: Mehari and
Strodthoff, Computers in Biology and Medicine 2022, and ECG-CPC 2025).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from util.contract.encoder import Encoder
from util.contract.method import Batch, Method
from util.contract.registry import register
from util.contract.sequence_encoder import SequenceEncoder
from util.errors import ConfigError
from util.named_arguments import COUNT


class CPC(Method):
    """From what is known up to a step, pick the step ``ahead`` of it among others of the same
    record.

    Args:
        encoder: a ``SequenceEncoder``.
        ahead: steps ahead.
        negatives: other steps of the record to tell it from.
    """

    encoder: SequenceEncoder

    def __init__(self, encoder: Encoder, ahead: int, negatives: int):
        super().__init__()
        if not isinstance(encoder, SequenceEncoder):
            raise ConfigError(
                "cpc needs an encoder with steps and contexts (cpc_lstm, cpc_s4), not "
                f"{type(encoder).__name__}"
            )
        self.encoder, self.ahead, self.negatives = encoder, ahead, negatives
        self.predict = nn.Linear(encoder.step_width, encoder.step_width, bias=False)
        # so that products of predictions and steps start below 1, and the loss at that of a guess
        nn.init.normal_(self.predict.weight, std=1 / encoder.step_width)

    def draw(self, batch: Batch) -> dict[str, Any]:
        """Return "negatives": (batch, steps - ahead, negatives), steps that are not the one
        ahead.
        """
        signal = batch["signal"]
        count = self.encoder.step_count(signal.shape[-1])
        if count <= self.ahead:
            raise ConfigError(
                f"cpc: crops of {count} steps have none {self.ahead} ahead; make them longer"
            )
        ahead = torch.arange(self.ahead, count, device=signal.device)[:, None]
        # 1 to count - 1 steps away from the one ahead, around the end of the crop
        away = 1 + batch["random"].integers(count - 1, count - self.ahead, self.negatives)
        return {"negatives": (ahead + away) % count}

    def forward(self, batch: Batch, drawn: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return {"loss", "accuracy"}: mean over steps of -log softmax of the one ahead (equation
        4 of the paper), log(1 + negatives) for a guess, and how often it comes out first.
        """
        steps = self.encoder.steps(batch["signal"])  # (batch, steps, step_width)
        predicted = self.predict(self.encoder.contexts(steps)[:, : -self.ahead])
        with torch.autocast(steps.device.type, enabled=False):
            steps, predicted = steps.float(), predicted.float()
            positive = (predicted * steps[:, self.ahead :]).sum(dim=-1, keepdim=True)
            negative = (predicted @ steps.mT).gather(2, drawn["negatives"])
            # (batch, steps - ahead, 1) and (batch, steps - ahead, negatives)
            normalizer = torch.cat([positive, negative], dim=-1).logsumexp(dim=-1)
            loss = (normalizer - positive.squeeze(-1)).mean()
            accuracy = (positive > negative).all(dim=-1).float().mean()
        return {"loss": loss, "accuracy": accuracy}


@register
def cpc(
    encoder: Encoder = "cpc_lstm",  # type: ignore[assignment]  # its name: see ``build``
    ahead: COUNT = 12,
    negatives: COUNT = 128,
) -> CPC:
    """Build CPC around an encoder of steps and contexts.

    The defaults are Mehari and Strodthoff's, at 100 Hz; ECG-CPC predicts 14 steps of 8 ms.

    Args:
        encoder: cpc_lstm or cpc_s4.
        ahead: steps ahead.
        negatives: other steps of the record to tell it from.
    """
    return CPC(encoder, ahead, negatives)
